"""What is frozen runs once: what it makes of the images is kept on disk, and the rest of the model trains on that.

The features of a backbone, or the maps of its first stages (see frozen). They are stored under a fingerprint of
everything that they depend on: the frozen part's weights and architecture, the preprocessing, the augmentation's draws,
the images' content, the kind of device and the precision. A change of any of these makes new ones; another learning
rate, loss or number of epochs does not.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.dataset import TrainingImages, fixed_augmentation
from sports_lightning.data.image_folder import DatasetIndex
from sports_lightning.data.sampler import SampleKey
from sports_lightning.inference.devices import device_type
from sports_lightning.inference.frozen_part import FrozenPart, FrozenStages, find_frozen_part
from sports_lightning.inference.predictor import compute_logits, evaluation_images, run_batches
from sports_lightning.models.classifier import Classifier
from sports_lightning.storage.disk_cache import cached_folder, fingerprint, library_versions, resolve_cache_dir

log = logging.getLogger(__name__)


class _FixedAugmentation(Dataset[tuple[Tensor, int | Tensor]]):
    """A training set as it is in one of its views."""

    def __init__(self, images: TrainingImages, view: int) -> None:
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int | Tensor]]:
        return self.images.__getitems__([SampleKey(self.view, index, 0) for index in indices])


class TrainingFeatures(Dataset[tuple[Tensor, int]]):
    """Features in place of `TrainingPictures`, under the same addresses (epoch, index, repeat).

    Args:
        views: (n, …) float32 for each view, which take turns.
        labels: of each.
    """

    def __init__(self, views: list[Tensor], labels: np.ndarray) -> None:
        self.views, self.labels = views, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, index, repeat = key
        return self.views[fixed_augmentation(epoch, repeat, len(self.views))][index], int(self.labels[index])


def count_fixed_augmentations(augment: DictConfig) -> int | None:
    """How many different versions of an image a training sees; None where every epoch has new ones."""
    if augment.mixup or augment.cutmix or augment.progressive_sizes:
        return None
    kinds = {transform._target_ for transform in augment.transforms.values() if transform}
    return 1 if kinds <= {"sports_lightning.data.preprocessing.ResizeAndCrop"} else augment.fixed_augmentations


def use_cached_features(classifier: Classifier, data: SportsDataModule, cfg: DictConfig) -> FrozenPart | None:
    """Put what the frozen part makes of the images of `data` in their place, if `cfg` (train) allows it.

    It does where a first part of the model is frozen for the whole run, where training sees a limited number of views
    of each image, and, for stages, where all of it fits into `finetune.cache_limit_gb`. The logits are those
    of the whole model.

    Returns:
        The part that need not run in training any more; None where it must.
    """
    views = count_fixed_augmentations(cfg.augment)
    is_kept = cfg.finetune.mode == "head" or (cfg.finetune.mode == "last_stages" and cfg.finetune.cache_limit_gb > 0)
    if views is None or not is_kept:
        return None
    part = find_frozen_part(classifier)
    if part is None:
        return None
    assert isinstance(data.train_set, TrainingImages)
    train, val = data.index.splits["train"], data.index.splits["val"]
    if isinstance(part, FrozenStages):
        # At most: the evaluation at the end takes up val's, unless it has another precision.
        images = (views - 1) * len(train) + len(val) + sum(map(len, data.index.splits.values()))
        size = part.size(classifier) * images / 1e9
        if size > cfg.finetune.cache_limit_gb:
            asked_for = f"finetune.cache_limit_gb={cfg.finetune.cache_limit_gb}"
            log.info("keeping what the frozen stages give takes %.1f GB (%s): they run in every epoch", size, asked_for)
            return None
    inference: Any = OmegaConf.merge(cfg.inference, {"precision": cfg.trainer.precision, "flip_tta": False})
    store = FeatureCache(part, classifier, inference, resolve_cache_dir(cfg.data))
    resolved: Any = OmegaConf.to_container(cfg.augment, resolve=True)
    plain = {key: value for key, value in resolved.items() if key not in ("fixed_augmentations", "preprocessing")}
    of_view = []
    for view in range(views):
        draws = None if views == 1 and cfg.augment.fixed_augmentations is None else [cfg.seed, view]
        provenance = [plain, draws]
        of_view.append(store.features(_FixedAugmentation(data.train_set, view), train.digests, provenance))
    data.train_set = TrainingFeatures(of_view, train.labels)
    data.val_set = TensorDataset(store.features(data.val_set, val.digests), torch.tensor(val.labels))
    return part


def logits_from_features(
    part: FrozenPart, classifier: Classifier, index: DatasetIndex, split: str, inference: DictConfig, cache_dir: Path
) -> Tensor:
    """As `compute_logits`, (n, classes) float32, but what the frozen part gives is stored, or taken from there."""
    if inference.flip_tta and isinstance(part, FrozenStages):  # a mean of maps leads elsewhere
        return compute_logits(classifier, index.root, index.splits[split], inference)
    dataset = evaluation_images(classifier, index.root, index.splits[split])
    features = FeatureCache(part, classifier, inference, cache_dir).features(dataset, index.splits[split].digests)
    way: Any = OmegaConf.merge(inference, {"flip_tta": False, "compile": False, "num_workers": 0})
    logits: list[Tensor] = []
    run_batches(part.rest, classifier, TensorDataset(features), way, logits.append)
    return torch.cat(logits)


class FeatureCache:
    """What one frozen part of a classifier gives, run in one way, kept on disk.

    Args:
        part: which part.
        classifier: of which classifier.
        inference: how it is run.
        cache_dir: `data.cache_dir`.
    """

    def __init__(self, part: FrozenPart, classifier: Classifier, inference: DictConfig, cache_dir: Path) -> None:
        if isinstance(part, FrozenStages):  # whose way out torch.compile can't follow
            inference = OmegaConf.merge(inference, {"compile": False})  # type: ignore[assignment]
        self.part, self.classifier, self.inference, self.cache_dir = part, classifier, inference, cache_dir
        weights = hashlib.blake2b(digest_size=16)
        for name, tensor in part.weights(classifier).items():
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        spec = classifier.spec
        frozen = [asdict(part), spec.architecture, spec.arguments, spec.preprocessing, weights.hexdigest()]
        self.provenance = ["folded features", library_versions(), *frozen]

    def features(self, dataset: Dataset[Any], digests: Sequence[str], augment: Any = None) -> Tensor:
        """(n, …) float32 of `dataset`, whose images have these digests; memory-mapped."""
        assert len(digests) == len(dataset), "the images have not been examined"  # type: ignore[arg-type]
        way = [self.inference[key] for key in ("precision", "compile", "flip_tta")]
        device = device_type(self.inference.accelerator)  # another kind rounds otherwise
        key = fingerprint([*self.provenance, *way, device, augment, list(digests)])

        def build(folder: Path) -> None:
            log.info("running the frozen %s once over %s images", self.part.name, f"{len(digests):,}")
            with (folder / "features.npy").open("wb") as file:

                def write(outputs: Tensor) -> None:
                    if not file.tell():
                        shape = (len(digests), *outputs.shape[1:])
                        layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, layout)
                    file.write(outputs.contiguous().numpy().data)

                run_batches(self.part.run, self.classifier, dataset, self.inference, write)

        return torch.from_numpy(
            np.load(cached_folder(self.cache_dir, "features", key, build) / "features.npy", mmap_mode="c")
        )
