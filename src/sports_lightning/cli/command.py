"""What a command is: its name, its task, and how it may be started."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig


@dataclass(frozen=True)
class Command:
    """A command of the package, run by `python -m sports_lightning.<name>`.

    Attributes:
        name: name of the command, of its config `conf/<name>.yaml` and of its room.
        task: function of the composed config and the run folder.
        positional: key whose list the bare arguments of the command line make up.
        resumable: whether runs and sweeps of the command can be resumed with `resume=FOLDER`.
        distributed: whether torchrun and srun may start several processes of it.
    """

    name: str
    task: Callable[[DictConfig, Path], None]
    positional: str | None = None
    resumable: bool = False
    distributed: bool = False
