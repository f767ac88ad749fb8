"""In which order images are seen: a function of (seed, epoch), the same on any number of workers and devices."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Yields (epoch, index, repeat), so that a data worker needs no state to know what to draw.

    Lightning calls `set_epoch` at the start of every epoch. With several devices each takes every `world_size`-th
    item, so that step k sees the same global batch whatever their number; the odd rest of an epoch is left out, a
    different one every epoch. `repeat` counts how often an image has come before in its epoch.

    Args:
        size: number of images.
        seed: of the run.
        weights: (size,) probability of each image, drawn with replacement; every image once where None.
        reshuffle: a new order every epoch; the first epoch's again where False.
        rank: of this process.
        world_size: number of processes.
        epoch: the one to begin with.
        skip: how many of this process's items of that epoch are done.
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
        """Set the epoch that the next iteration belongs to."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __len__(self) -> int:
        return self.size // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return iter(self.items()[self.skip :])

    def items(self) -> list[tuple[int, int, int]]:
        """All of this process's items of the epoch, in order."""
        draws = np.random.default_rng([self.seed, self.epoch if self.reshuffle else 0])
        if self.weights is None:
            order = draws.permutation(self.size)
        else:
            order = draws.choice(self.size, self.size, p=self.weights)
        seen: Counter[int] = Counter()
        items = []
        for index in order.tolist():
            items.append((self.epoch, index, seen[index]))
            seen[index] += 1
        return items[self.rank :: self.world_size][: len(self)]
