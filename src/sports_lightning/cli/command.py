"""The description of a command: its name, its task, and how it may be started."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig


@dataclass(frozen=True)
class Command:
    """A command of the package, run by `python -m sports_lightning.<name>`.

    Attributes:
        name: name of the command, of its config `conf/<name>.yaml` and of its subpackage.
        task: function of the composed config and the run folder; it returns the folder that holds its results, or None
            for the run folder.
        positional: key that receives the positional arguments of the command line, as a list.
        resume: function of FOLDER in `resume=FOLDER`, and whether its config is trusted; it returns the run folder to
            resume, or raises UserError. None: runs cannot be resumed.
        distributed: whether torchrun and srun may start several processes of it.
        first_files: names of files that the task writes into the run folder before it has results.
        after_sweep: function of the sweep folder and {run folder: command line} of its jobs, called when they have
            ended; it returns whether the sweep has the result that it should have.
    """

    name: str
    task: Callable[[DictConfig, Path], Path | None]
    positional: str | None = None
    resume: Callable[[str, bool], Path] | None = None
    distributed: bool = False
    first_files: tuple[str, ...] = ()
    after_sweep: Callable[[Path, dict[Path, list[str]]], bool] | None = None
