"""The order of the training images: a function of (seed, epoch), for any number of workers and devices."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """One training sample: determines its image and all of its random draws.

    Attributes:
        epoch: from 0.
        index: of the image in its split.
        repeat: how often the image has occurred before in this epoch.
    """

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used
    repeat: int


class EpochSampler(Sampler[SampleKey]):
    """Yields a `SampleKey` per sample, so that data workers need no state for their random draws.

    Lightning calls `set_epoch` at the start of every epoch. Each of several devices takes every `world_size`-th
    sample, so that step k has the same global batch for any number of devices. The sampler drops a different remainder
    every epoch, so that all ranks have the same number of samples.

    Args:
        size: number of images.
        seed: the run's seed.
        weights: (size,) probability of each image, drawn with replacement; None uses every image once.
        reshuffle: use a new order every epoch; False repeats the order of the first epoch.
        rank: rank of this process.
        world_size: number of processes.
        epoch: first epoch to yield.
        skip: number of this rank's samples of that epoch to skip, because they have been trained on.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        weights: np.ndarray | None = None,
        reshuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        skip: int = 0,
    ) -> None:
        self.size, self.seed, self.weights, self.reshuffle = size, seed, weights, reshuffle
        self.rank, self.world_size = rank, world_size
        self.epoch, self.skip = epoch, skip

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __len__(self) -> int:
        return self.size // self.world_size

    def __iter__(self) -> Iterator[SampleKey]:
        return iter(self.items()[self.skip :])

    def items(self) -> list[SampleKey]:
        """All samples of this rank in the epoch, in order."""
        draws = np.random.default_rng([self.seed, self.epoch if self.reshuffle else 0])
        if self.weights is None:
            order = draws.permutation(self.size)
        else:
            order = draws.choice(self.size, self.size, p=self.weights)
        occurrences: Counter[int] = Counter()
        items = []
        for index in order.tolist():
            items.append(SampleKey(self.epoch, index, occurrences[index]))
            occurrences[index] += 1
        return items[self.rank :: self.world_size][: len(self)]
