"""Lightning data module: training and validation batches from an index, an augmentation and a preprocessing."""

from functools import partial
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from sports_lightning.data.augment import EpochTransform, build_mix
from sports_lightning.data.dataset import EvaluationImages, TrainingImages
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.decoded_cache import DecodedImages, open_images
from sports_lightning.data.formats import limit_pixels
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.sampler import EpochSampler
from sports_lightning.runs.signals import ignore_signals
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.parallel import usable_cores

_MAX_WORKERS = 8  # load about 10,000 images per second


class SportsDataModule(pl.LightningDataModule):
    """Training and validation batches of a dataset.

    Batches are (uint8 (n, 3, height, width), labels (n,) int64), or with mixup or cutmix (n, classes) float32 targets.

    Args:
        index: the dataset, with the splits "train" and "val".
        preprocessing: the model's preprocessing.
        data: `conf/data/*.yaml`.
        augment: `conf/augment/*.yaml`; its `preprocessing` is filled in.
        seed: the run's seed.

    Attributes:
        train_set, val_set: the datasets, addressed by `SampleKey` and by index. Datasets of cached features for the
            same positions can replace them (see `inference.training_features`).
    """

    def __init__(
        self, index: DatasetIndex, preprocessing: Preprocessing, data: DictConfig, augment: DictConfig, seed: int
    ) -> None:
        super().__init__()
        self.index, self.data, self.seed = index, data, seed
        self.preprocessing, self.augment = preprocessing, augment
        self.train_set: Dataset[Any] = self.training_images(index.splits["train"])
        self.val_set: Dataset[Any] = self.evaluation_images(index.splits["val"])

    def training_images(self, split: Split) -> TrainingImages:
        """The images of `split`, augmented. In cross-validation, an image has the same augmentations in every fold."""
        mix, transform = build_mix(self.augment, len(self.index.classes)), EpochTransform(self.augment)
        fixed = self.augment.fixed_augmentations
        weights = self._weights(split)
        return TrainingImages(self._images(split), split.labels, transform, self.seed, mix, fixed, split.rows, weights)

    def evaluation_images(self, split: Split) -> EvaluationImages:
        """The images of `split`, as evaluation sees them."""
        return EvaluationImages(self._images(split), split.labels, self.preprocessing.transform())

    def _weights(self, split: Split) -> np.ndarray | None:
        """(n,) float64 probability of drawing each image with `data.balanced_sampling`, else None."""
        if not self.data.balanced_sampling:
            return None
        weights = 1 / np.bincount(split.labels)[split.labels]
        return weights / weights.sum()

    def _images(self, split: Split) -> DecodedImages:
        return open_images(
            self.index.root, split, self.preprocessing.least_side, self.data.cache,
            resolve_cache_dir(self.data), self.preprocessing.value_range, self.index.pool,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader:
        """Augmented batches in the order of (seed, epoch); a smaller last batch is dropped unless it is the only one.

        A resumed run starts with the first batch that has not been trained on.
        """
        assert self.trainer is not None
        split, rank, world_size = self.index.splits["train"], self.trainer.global_rank, self.trainer.world_size
        weights = self._weights(split)
        batch_size = self.data.batch_size // world_size  # the number of devices changes the speed, not the result
        epoch, batches_done = _position(self.trainer)
        sampler = EpochSampler(
            len(split), self.seed, weights, self.data.reshuffle, rank, world_size, epoch, batches_done * batch_size
        )
        drop_last = len(sampler) >= batch_size
        return build_loader(self.train_set, batch_size, self._num_workers(), self._device(), sampler, drop_last)

    def train_paths(self, batch_idx: int) -> list[str]:
        """The image files of a batch of this epoch, without the partners of mixup and CutMix."""
        assert self.trainer is not None
        loader: Any = self.trainer.train_dataloader
        items = loader.sampler.items()[batch_idx * loader.batch_size :][: loader.batch_size]
        return [str(self.index.root / self.index.splits["train"].paths[index]) for _, index, _ in items]

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, without randomness; every device evaluates all of it.

        They are as large as the training batches of a device, which fit into its memory.
        """
        devices = self.trainer.world_size if self.trainer else 1
        return build_loader(self.val_set, self.data.batch_size // devices, self._num_workers(), self._device())

    def _num_workers(self) -> int:
        devices = self.trainer.num_devices if self.trainer else 1
        return count_workers(self.data.num_workers, self._device(), devices)

    def _device(self) -> str:
        return self.trainer.strategy.root_device.type if self.trainer else "cpu"  # "cpu": outside of training


def _position(trainer: pl.Trainer) -> tuple[int, int]:
    """The current or next epoch, and how many of its batches have been trained on."""
    epochs, batches = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.current
    is_running = epochs.started > epochs.processed  # type: ignore[attr-defined]
    # trainer.current_epoch is still the old epoch when an epoch ends.
    return epochs.processed, batches.processed if is_running else 0  # type: ignore[attr-defined]


def count_workers(num_workers: int | Literal["auto"], device: str, devices: int = 1) -> int:
    """Number of data-loading processes per device.

    "auto" is 0 on a CPU, because the network already keeps all cores busy (measurements in docs/RESULTS.md), and a
    device's share of the cores otherwise, up to 8.

    Args:
        num_workers: `data.num_workers`.
        device: torch's name of the device type.
        devices: number of devices of this machine that the run uses.
    """
    if num_workers != "auto":
        return num_workers
    return 0 if device == "cpu" else min(_MAX_WORKERS, max(1, usable_cores() // devices))


def build_loader(
    dataset: Dataset,
    batch_size: int,
    num_workers: int,
    device: str,
    sampler: EpochSampler | None = None,
    drop_last: bool = False,
) -> DataLoader:
    """A DataLoader with the settings that all commands share; `device` is torch's name of the device type."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=drop_last,
        pin_memory=device == "cuda",
        persistent_workers=num_workers > 0,
        collate_fn=_collate,
        worker_init_fn=partial(_start_worker, Image.MAX_IMAGE_PIXELS),
    )


def _start_worker(most_pixels: int | None, worker: int) -> None:
    limit_pixels(most_pixels)  # a spawned process does not inherit it
    ignore_signals(worker)


def _collate(items: list[tuple[Any, ...]]) -> list[Any]:
    """torch's default collation, except that images (3, h, w) stay channels-last, as they are decoded."""
    inputs, *targets = map(list, zip(*items, strict=True))
    if inputs[0].ndim == 3:
        batch = default_collate([image.permute(1, 2, 0) for image in inputs]).permute(0, 3, 1, 2)
    else:
        batch = default_collate(inputs)
    return [batch, *map(default_collate, targets)]
