"""This process: its rank among the processes of a run, which launcher started it, and when."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# In the environment of the other processes of a distributed run, which Lightning starts: the folder of their run.
RUN_FOLDER = "SPORTS_LIGHTNING_RUN_FOLDER"
TORCHRUN = "TORCHELASTIC_RUN_ID"

# Variables from which Lightning reads the rank of a process and the number of processes.
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"),
    *("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE"),
)
PROCESS_START = time.monotonic()  # in seconds; a command's run starts with its process


@dataclass(frozen=True)
class Process:
    """Rank and origin of a process.

    Attributes:
        rank: global rank; 0 outside distributed training.
        world_size: number of processes that torchrun or srun has started; 1 otherwise.
        is_externally_launched: whether torchrun or srun has started this process, and all others of the run with it.
        run_folder: the folder of the run, in a process that Lightning has started; None in any other process.
    """

    rank: int = 0
    world_size: int = 1
    is_externally_launched: bool = False
    run_folder: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Process":
        """Read the variables that torchrun, srun (see cli.distributed) and Lightning set for their processes.

        Rank variables that none of them has set, left over in a shell for example, do not count.
        """
        if TORCHRUN in environment:
            return cls(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")), True)
        if RUN_FOLDER in environment:
            return cls(int(environment.get("LOCAL_RANK", "0")), run_folder=Path(environment[RUN_FOLDER]))
        return cls()


def is_rank_zero() -> bool:
    """Whether this process is the one that prints and writes files; true outside distributed training."""
    return Process.from_environment().rank == 0


def local_rank() -> int:
    """Rank of this process among those of the run on this machine; 0 outside distributed training."""
    is_launched = TORCHRUN in os.environ or RUN_FOLDER in os.environ
    return int(os.environ.get("LOCAL_RANK", "0")) if is_launched else 0


def is_externally_launched() -> bool:
    """Whether torchrun or srun has started this process, and all others of the run with it."""
    return TORCHRUN in os.environ


def remove_stray_ranks() -> None:
    """Remove rank variables that no launcher has set for this process: Lightning would use them."""
    if TORCHRUN not in os.environ and RUN_FOLDER not in os.environ:
        for name in RANK_VARIABLES:
            os.environ.pop(name, None)
