"""The processes of torchrun or srun that share the images of one command."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from sports_lightning.inference.devices import select_device
from sports_lightning.runs.process import Process, local_rank

_TIMEOUT = timedelta(days=30)  # the first rank waits for the slowest; the launcher ends all if one fails


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work. Every process has to call the same methods in the same order.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    def share(self, items: Sequence[Any]) -> list[Any]:
        """The items that this process works on: every `world_size`-th."""
        return list(items[self.rank :: self.world_size])

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def gather_on_first(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks on the first rank; an empty list on the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        distributed.gather_object(value, values)
        return values or []


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Connect the processes that torchrun or srun has started; on a machine with GPUs, each takes one of its own."""
    process = Process.from_environment()
    if process.world_size == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        select_device(torch.device("cuda", local_rank() % torch.cuda.device_count()))
    distributed.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield Ranks(process.rank, process.world_size)
    finally:
        distributed.destroy_process_group()
