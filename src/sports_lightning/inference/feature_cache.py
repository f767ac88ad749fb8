"""Feature cache: run the frozen part of a model once, store its outputs on disk, and train the other layers on them.

The outputs are the features of a backbone or the maps of its first stages (see `frozen_part`). They are stored under a
fingerprint of everything that they depend on: weights and architecture of the frozen part, preprocessing, augmentation
and its seed, content of the images, type of device, precision and batch size. Another learning rate, loss or number of
epochs uses the same features again.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset

from sports_lightning.config.rules import limit_of
from sports_lightning.data.augment import build_transform
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.dataset import TrainingImages, fixed_augmentation
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.formats import pixel_limit
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.sampler import SampleKey
from sports_lightning.inference.frozen_part import FrozenPart, FrozenStages, find_frozen_part
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.predictor import compute_logits, evaluation_images, output_settings, run_batches
from sports_lightning.models.classifier import Classifier
from sports_lightning.storage.code_digest import foreign_code_digests
from sports_lightning.storage.disk_cache import cache_key, cached_folder, find_cached_folder, resolve_cache_dir

log = logging.getLogger(__name__)

_KIND = "features"  # of cached folder
_LARGEST_BATCH = 256  # of data.batch_size=auto


class _FixedAugmentation(Dataset[tuple[Tensor, int | Tensor]]):
    """The training images with one of their fixed augmentations, by its number."""

    def __init__(self, images: TrainingImages, number: int) -> None:
        self.images, self.number = images, number

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int | Tensor]]:
        return self.images.__getitems__([SampleKey(self.number, index, 0) for index in indices])


class TrainingFeatures(Dataset[tuple[Tensor, int]]):
    """Features that replace `TrainingImages`, with the same keys (epoch, index, repeat).

    Args:
        features: n images' features for each fixed augmentation; the epochs use them in turn.
        labels: (n,) int64.
    """

    def __init__(self, features: "list[SplitFeatures]", labels: np.ndarray) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, index, repeat = key
        number = fixed_augmentation(epoch, repeat, len(self.features))
        return self.features[number][index][0], int(self.labels[index])


class SplitFeatures(Dataset[tuple[Tensor, ...]]):
    """Features of the images of a split: item i is (features,), or (features, label) if labels are given.

    Args:
        features: (m, …) float32, memory-mapped.
        rows: (n,) int64, which of them are those of the split; None: all, in order.
        labels: (n,) int64.
    """

    def __init__(self, features: Tensor, rows: np.ndarray | None, labels: np.ndarray | None = None) -> None:
        self.features, self.rows, self.labels = features, rows, labels

    def __len__(self) -> int:
        return len(self.features) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        features = self.features[index if self.rows is None else int(self.rows[index])]
        return (features,) if self.labels is None else (features, torch.tensor(self.labels[index]))

    def tensor(self) -> Tensor:
        """(n, …) float32; in memory, where they are a part of the features."""
        return self.features if self.rows is None else self.features[torch.from_numpy(self.rows)]


def count_fixed_augmentations(augment: DictConfig) -> int | None:
    """Number of fixed augmentations per image, 1 without augmentation; None if every epoch draws new ones."""
    if augment.mixup or augment.cutmix or augment.progressive_sizes:
        return None
    kinds = {transform._target_ for transform in augment.transforms.values() if transform}
    return 1 if kinds <= {"sports_lightning.data.preprocessing.ResizeAndCrop"} else augment.fixed_augmentations


def cached_part(classifier: Classifier, index: DatasetIndex, cfg: DictConfig) -> FrozenPart | None:
    """The frozen part of a classifier whose outputs a run caches; None if the whole model has to run.

    They are cached if the first part of the model is frozen for the whole run, if the number of augmentations per image
    is fixed, if the run is not limited to fewer images than there are, and, for stages, if all outputs fit into
    `finetune.cache_limit_gb`.

    Args:
        classifier: with `requires_grad` set as in training.
        index: the images.
        cfg: `conf/train.yaml`.
    """
    count = count_fixed_augmentations(cfg.augment)
    may_cache = cfg.finetune.mode == "head" or (cfg.finetune.mode == "last_stages" and cfg.finetune.cache_limit_gb > 0)
    if count is None or not may_cache or _trains_on_few(cfg, len(index.splits["train"])):
        return None
    part = find_frozen_part(classifier)
    if isinstance(part, FrozenStages) and not _fits_on_disk(part.size(classifier), count, index, cfg):
        return None
    return part


def use_cached_features(
    part: FrozenPart, classifier: Classifier, data: SportsDataModule, cfg: DictConfig, precision: str
) -> None:
    """Replace the images of `data` by the outputs of a frozen part. The logits are those of the whole model.

    Args:
        part: see `cached_part`.
        classifier: with `requires_grad` set as in training.
        data: its `train_set` and `val_set` are replaced.
        cfg: `conf/train.yaml`.
        precision: of the pass through the part.
    """
    train, val, pool = data.index.splits["train"], data.index.splits["val"], data.index.pool
    count = count_fixed_augmentations(cfg.augment) or 1
    inference: Any = OmegaConf.merge(cfg.inference, {"precision": precision, "flip_tta": False})
    store = FeatureCache(part, classifier, inference, resolve_cache_dir(cfg.data))
    resolved: Any = OmegaConf.to_container(cfg.augment, resolve=True)
    plain = {key: value for key, value in resolved.items() if key not in ("fixed_augmentations", "preprocessing")}
    transforms = {transform["_target_"].rpartition(".")[0] for transform in plain["transforms"].values() if transform}
    features = []
    for number in range(count):
        draws = None if count == 1 and cfg.augment.fixed_augmentations is None else [cfg.seed, number]
        augmentation_key = [plain, draws, foreign_code_digests(transforms)]
        if _sees_evaluation_images(cfg.augment, data.preprocessing):
            features.append(store.split_features(train, pool, data.evaluation_images))
            continue

        def images(split: Split, number: int = number) -> Dataset[Any]:
            return _FixedAugmentation(data.training_images(split), number)

        features.append(store.split_features(train, pool, images, augmentation_key))
    data.train_set = TrainingFeatures(features, train.labels)
    found = store.split_features(val, pool, data.evaluation_images)
    data.val_set = SplitFeatures(found.features, found.rows, val.labels)


def _fits_on_disk(image_size: int, augmentations: int, index: DatasetIndex, cfg: DictConfig) -> bool:
    """Whether the outputs of the frozen stages, of `image_size` bytes per image, fit into `cache_limit_gb`."""
    # An upper bound: the final evaluation shares the outputs for val, unless its precision differs.
    cached_images = (augmentations - 1) * len(index.splits["train"]) + len(index.splits["val"])
    cached_images += sum(map(len, index.splits.values()))
    if index.pool:
        cached_images = (augmentations + 2) * len(index.pool)
    size = image_size * cached_images / 1e9
    if size > cfg.finetune.cache_limit_gb:
        limit = f"finetune.cache_limit_gb={cfg.finetune.cache_limit_gb}"
        log.info("the outputs of the frozen stages take %.1f GB (%s): the stages run in every epoch", size, limit)
    return size <= cfg.finetune.cache_limit_gb


def _sees_evaluation_images(augment: DictConfig, preprocessing: Preprocessing) -> bool:
    """Whether training images are prepared as those of evaluation, so that they have the same features."""
    evaluation, (training, *others) = preprocessing.transform(), build_transform(augment).transforms
    return not others and type(training) is type(evaluation) and vars(training) == vars(evaluation)


def _trains_on_few(cfg: DictConfig, images: int) -> bool:
    """Whether limits on batches and epochs let a run train on fewer images than there are, as `debug=fast` does."""
    limit, epochs = cfg.trainer.limit_train_batches, limit_of(cfg.trainer.max_epochs)
    if limit is None:
        return False
    batch_size = _LARGEST_BATCH if cfg.data.batch_size == "auto" else cfg.data.batch_size
    per_epoch = limit * images if isinstance(limit, float) else limit * batch_size
    return bool(epochs * per_epoch < images)


def logits_from_features(
    part: FrozenPart, classifier: Classifier, index: DatasetIndex, split: str, inference: DictConfig, cache_dir: Path
) -> Tensor:
    """Compute logits (n, classes) float32 as `compute_logits` does, with the outputs of the frozen part cached."""
    # The logits of averaged maps are not averaged logits, and a compiled whole rounds differently from compiled parts.
    if inference.compile or (inference.flip_tta and isinstance(part, FrozenStages)):
        return compute_logits(classifier, index.root, index.splits[split], inference)
    store = FeatureCache(part, classifier, inference, cache_dir)
    images = partial(evaluation_images, classifier, index.root)
    features = store.split_features(index.splits[split], index.pool, images)
    settings: Any = OmegaConf.merge(inference, {"flip_tta": False, "num_workers": 0})
    logits: list[Tensor] = []
    run_batches(part.rest, classifier, features, settings, logits.append)
    return torch.cat(logits)


class FeatureCache:
    """The outputs of the frozen part of a classifier, stored on disk.

    Args:
        part: the frozen part.
        classifier: the classifier that `part` belongs to.
        inference: `conf/inference/*.yaml`.
        cache_dir: `data.cache_dir`.
    """

    def __init__(self, part: FrozenPart, classifier: Classifier, inference: DictConfig, cache_dir: Path) -> None:
        if isinstance(
            part, FrozenStages
        ):  # torch.compile does not support the exception that ends their forward pass early
            inference = OmegaConf.merge(inference, {"compile": False})  # type: ignore[assignment]
        self.part, self.classifier, self.inference, self.cache_dir = part, classifier, inference, cache_dir
        weights = hashlib.blake2b(digest_size=16)
        for name, tensor in part.weights(classifier).items():
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        spec = classifier.spec
        frozen = [asdict(part), spec.architecture, spec.arguments, spec.preprocessing, weights.hexdigest()]
        layers = {type(layer).__module__ for layer in classifier.net.modules()}
        self.key_parts = [*frozen, foreign_code_digests(layers)]

    def split_features(
        self, split: Split, pool: Split | None, images: Callable[[Split], Dataset[Any]], augmentation_key: Any = None
    ) -> SplitFeatures:
        """The outputs for the images of a split; those of a fold are taken from the outputs for all images of its pool.

        Args:
            split: the images.
            pool: `DatasetIndex.pool`.
            images: makes the dataset of preprocessed images of a split or pool.
            augmentation_key: the augmentation of the dataset, as plain data.
        """
        whole = pool or split
        features = self.features(images(whole), whole.digests, augmentation_key)
        return SplitFeatures(features, split.rows if pool else None)

    def features(self, dataset: Dataset[Any], digests: Sequence[str], augmentation_key: Any = None) -> Tensor:
        """Return the outputs (n, …) float32 for a dataset, memory-mapped; out of memory halves `inference.batch_size`.

        Args:
            dataset: preprocessed images.
            digests: of the content of the images, in order.
            augmentation_key: the augmentation of `dataset`, as plain data.
        """
        assert len(digests) == len(dataset), "the images have no digests"  # type: ignore[arg-type]
        features, self.inference = halve_batch_on_out_of_memory(
            lambda inference: self._features(dataset, digests, augmentation_key, inference), self.inference
        )
        return features

    def _features(
        self, dataset: Dataset[Any], digests: Sequence[str], augmentation_key: Any, inference: DictConfig
    ) -> Tensor:
        key = self._key(digests, augmentation_key, inference)

        def build(folder: Path) -> None:
            log.info("running the frozen %s once over %s images", self.part.name, f"{len(digests):,}")
            with (folder / "features.npy").open("wb") as file:

                def write(outputs: Tensor) -> None:
                    if not file.tell():
                        shape = (len(digests), *outputs.shape[1:])
                        layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, layout)
                    file.write(outputs.contiguous().numpy().data)

                run_batches(self.part.run, self.classifier, dataset, inference, write)

        return _load(cached_folder(self.cache_dir, _KIND, key, build))

    def find(self, digests: Sequence[str]) -> Tensor | None:
        """The stored outputs (n, …) float32 for images without augmentation, memory-mapped; None if there are none.

        Args:
            digests: of the content of the images, in order.
        """
        folder = find_cached_folder(self.cache_dir, _KIND, self._key(digests, None, self.inference))
        return _load(folder) if folder else None

    def _key(self, digests: Sequence[str], augmentation_key: Any, inference: DictConfig) -> str:
        settings = [*output_settings(inference), pixel_limit()]
        return cache_key(__name__, *self.key_parts, *settings, augmentation_key, list(digests))


def _load(folder: Path) -> Tensor:
    return torch.from_numpy(np.load(folder / "features.npy", mmap_mode="c"))
