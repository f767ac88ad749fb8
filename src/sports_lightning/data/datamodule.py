"""Batches for fitting: the index, the augmentation and the preprocessing put together for Lightning."""

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader, Dataset

from sports_lightning.augment import build_mix, build_transform
from sports_lightning.data.dataset import EvaluationPictures, TrainingPictures
from sports_lightning.data.index import Index
from sports_lightning.data.sampler import EpochSampler
from sports_lightning.preprocessing import Preprocessing


class SportsDataModule(pl.LightningDataModule):
    """Training and validation batches of a data set.

    Batches are (uint8 (n, 3, height, width), labels (n,) int64), or with mixup or cutmix (n, classes) float32 targets.

    Args:
        index: the data set, with the splits "train" and "val".
        preprocessing: the model's.
        augment: `conf/augment/*.yaml`, its `preprocessing` filled in.
        batch_size: over all devices together, so that the number of devices changes the speed and not the result.
        num_workers: data-loading processes for each device; 0 loads in the training process.
        seed: of the run.
        balanced_sampling: draw every class equally often.
        reshuffle: a new order every epoch.
    """

    def __init__(
        self,
        index: Index,
        preprocessing: Preprocessing,
        augment: DictConfig,
        batch_size: int,
        num_workers: int,
        seed: int,
        balanced_sampling: bool = False,
        reshuffle: bool = True,
    ) -> None:
        super().__init__()
        self.index, self.preprocessing, self.augment = index, preprocessing, augment
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.balanced_sampling, self.reshuffle = balanced_sampling, reshuffle

    def train_dataloader(self) -> DataLoader:
        """Augmented batches in the order of (seed, epoch); a last, smaller batch is left out where there are others."""
        assert self.trainer is not None
        split, rank, world_size = self.index.splits["train"], self.trainer.global_rank, self.trainer.world_size
        weights = None
        if self.balanced_sampling:
            weights = 1 / np.array(self.index.class_counts("train"), dtype=np.float64)[split.labels]
            weights /= weights.sum()
        dataset = TrainingPictures(
            self.index.root,
            split,
            build_transform(self.augment),
            self.seed,
            build_mix(self.augment, len(self.index.classes)),
        )
        sampler = EpochSampler(len(split), self.seed, weights, self.reshuffle, rank, world_size)
        batch_size = self.batch_size // world_size
        return build_loader(dataset, batch_size, self.num_workers, sampler, drop_last=len(sampler) >= batch_size)

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, nothing random; every device sees all of it."""
        split = self.index.splits["val"]
        dataset = EvaluationPictures(self.index.root, split, self.preprocessing.transform())
        return build_loader(dataset, self.batch_size, self.num_workers)


def build_loader(
    dataset: Dataset, batch_size: int, num_workers: int, sampler: EpochSampler | None = None, drop_last: bool = False
) -> DataLoader:
    """A DataLoader with the settings that all of ours share."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
