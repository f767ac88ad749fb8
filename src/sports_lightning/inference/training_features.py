"""Training on cached outputs of the frozen part of a model: which runs do that, and the datasets that they train on."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset

from sports_lightning.config.rules import limit_of
from sports_lightning.config.trees import elements
from sports_lightning.data.augment import build_transform
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.dataset import TrainingImages, fixed_augmentation
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.sampler import SampleKey
from sports_lightning.inference.feature_cache import FeatureCache, SplitFeatures
from sports_lightning.inference.frozen_part import FrozenPart, FrozenStages, find_frozen_part
from sports_lightning.inference.frozen_pass import FrozenPass
from sports_lightning.models.classifier import Classifier
from sports_lightning.storage.code_digest import code_digest, foreign_code
from sports_lightning.storage.disk_cache import resolve_cache_dir

log = logging.getLogger(__name__)


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
        cfg: `conf/train.yaml`, with a number as `data.batch_size`.
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
    part: FrozenPart, classifier: Classifier, data: SportsDataModule, cfg: DictConfig, how: FrozenPass
) -> None:
    """Replace the images of `data` by the outputs of a frozen part. The logits are those of the whole model.

    Args:
        part: see `cached_part`.
        classifier: with `requires_grad` set as in training.
        data: its `train_set` and `val_set` are replaced.
        cfg: `conf/train.yaml`.
        how: engine and precision of the pass through the part.
    """
    train, val, pool = data.index.splits["train"], data.index.splits["val"], data.index.pool
    count = count_fixed_augmentations(cfg.augment) or 1
    store = FeatureCache(part, classifier, how.settings(cfg.inference), resolve_cache_dir(cfg.data), how.engine)
    resolved: Any = OmegaConf.to_container(cfg.augment, resolve=True)
    plain = {key: value for key, value in resolved.items() if key not in ("fixed_augmentations", "preprocessing")}
    features = []
    for number in range(count):
        draws = None if count == 1 and cfg.augment.fixed_augmentations is None else [cfg.seed, number]
        augmentation_key = [plain, draws, _user_code(plain["transforms"]), code_digest(build_transform.__module__)]
        if _sees_evaluation_images(cfg.augment, data.preprocessing):
            features.append(store.split_features(train, pool, data.evaluation_images))
            continue

        def images(split: Split, number: int = number) -> Dataset[Any]:
            return _FixedAugmentation(data.training_images(split), number)

        features.append(store.split_features(train, pool, images, augmentation_key))
    data.train_set = TrainingFeatures(features, train.labels)
    found = store.split_features(val, pool, data.evaluation_images)
    data.val_set = SplitFeatures(found.features, found.rows, val.labels)


def _user_code(transforms: dict[str, Any]) -> dict[str, str]:
    """The code of a user's own transforms, also of those inside others; see `foreign_code`."""
    targets = [value for key, value in elements(transforms) if key == "_target_"]
    return foreign_code(target.rpartition(".")[0] for target in targets)


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
    per_epoch = limit * images if isinstance(limit, float) else limit * cfg.data.batch_size
    return bool(epochs * per_epoch < images)


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

    def __init__(self, features: list[SplitFeatures], labels: np.ndarray) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, index, repeat = key
        number = fixed_augmentation(epoch, repeat, len(self.features))
        return self.features[number][index][0], int(self.labels[index])
