"""In which order pictures are seen: a function of (seed, epoch), the same on any number of workers and devices."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs; the epoch travels with the index, so that a data worker needs no state.

    Lightning calls `set_epoch` at the start of every epoch. With several devices each takes every `world_size`-th
    pair, so that step k sees the same global batch whatever their number; the odd rest of an epoch is left out, a
    different one every epoch.

    Args:
        size: number of pictures.
        seed: of the run.
        weights: (size,) probability of each picture, drawn with replacement; every picture once where None.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self, size: int, seed: int, weights: np.ndarray | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.seed, self.weights = size, seed, weights
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration belongs to."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draws = np.random.default_rng([self.seed, self.epoch])
        order = (
            draws.permutation(self.size) if self.weights is None else draws.choice(self.size, self.size, p=self.weights)
        )
        mine = order[self.rank :: self.world_size][: len(self)]
        return ((self.epoch, int(index)) for index in mine)
