"""What this process is: its rank among those of a run, and how long it has run."""

import os
import time

TORCHRUN = "TORCHELASTIC_RUN_ID"

_STARTED = time.monotonic()


def seconds_since_start() -> float:
    """Wall time since the command began, in seconds."""
    return round(time.monotonic() - _STARTED, 1)


def is_rank_zero() -> bool:
    """Whether this process is the one that prints and writes files (true outside distributed training)."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def is_externally_launched() -> bool:
    """Whether torchrun or srun has started this process, and with it all others of the run."""
    return TORCHRUN in os.environ
