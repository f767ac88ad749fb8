"""Decide from the command line and the environment what a process does. Nothing is started or written here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sports_lightning.cli.command import Command
from sports_lightning.cli.command_line import check_command_line
from sports_lightning.config.overrides import collect_positional, last_value, options_first
from sports_lightning.config.path_values import quote_paths
from sports_lightning.errors import UserError
from sports_lightning.runs.changed_settings import may_change
from sports_lightning.runs.process import Process
from sports_lightning.runs.resume import continue_command
from sports_lightning.sweeps.resume import is_sweep_folder

JOB_OPTION = "--job"  # of the processes that a sweep or `reproduce` starts

# Options of Hydra that only print something.
_PRINTING_OPTIONS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"),
    *("--shell-completion", "-sc"),
)
_MULTIRUN_OPTIONS = ("-m", "--multirun")


@dataclass(frozen=True)
class Nothing:
    """Another rank of a command that only prints, which the first rank does."""


@dataclass(frozen=True)
class Version:
    """The version of the package."""


@dataclass(frozen=True)
class Help:
    """The help text of the command, with the config that these overrides give."""

    overrides: tuple[str, ...]


@dataclass(frozen=True)
class StoredJob:
    """A job whose config another process of this machine has written into the run folder."""

    folder: Path


@dataclass(frozen=True)
class ReceivedJob:
    """A job whose config the first rank sends."""


@dataclass(frozen=True)
class ResumedRun:
    """An interrupted run that resumes.

    Attributes:
        value: its folder.
        is_trusted: whether its config may name any `_target_`.
        changes: KEY=VALUE of the settings that differ from now on.
    """

    value: str
    is_trusted: bool
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResumedSweep:
    """An interrupted sweep whose remaining jobs are run; `is_trusted` as for a run."""

    value: str
    is_trusted: bool


@dataclass(frozen=True)
class Composed:
    """A run, a sweep, or text to print, which Hydra composes from these arguments."""

    arguments: tuple[str, ...]


Launch = Nothing | Version | Help | StoredJob | ReceivedJob | ResumedRun | ResumedSweep | Composed


def parse_launch(
    command: Command, argv: Sequence[str], process: Process, is_sweep: Callable[[Path], bool] = is_sweep_folder
) -> Launch:
    """Return what this process does.

    Args:
        command: the command.
        argv: its command line, without the program.
        process: rank and origin of this process.
        is_sweep: tells a sweep's folder from a run's.

    Raises:
        UserError: arguments that exclude each other, or several processes of a command that takes one.
    """
    arguments = options_first(argv)
    if arguments[:1] == ["--version"]:
        return Version()
    prints = only_prints(arguments)
    if process.is_externally_launched and not prints and not command.distributed and process.world_size > 1:
        raise UserError(f"{command.name} runs in one process: start one task, not {process.world_size}")
    if arguments[:1] == [JOB_OPTION]:
        return StoredJob(Path(arguments[1]))
    if process.is_externally_launched and process.rank > 0:
        return Nothing() if prints else ReceivedJob()
    if process.run_folder is not None and process.rank > 0:
        return StoredJob(process.run_folder)
    if arguments[:1] in (["--help"], ["-h"]) and not any(argument.startswith("-") for argument in arguments[1:]):
        return Help(tuple(arguments[1:]))
    if command.positional:
        arguments = collect_positional(arguments, command.positional)
    arguments = quote_paths(arguments)
    check_command_line(arguments, command.name)
    value = last_value(arguments, "resume") if command.resume else None
    if value not in (None, "", "auto"):
        return _resumed(str(value), arguments, is_sweep)
    return Composed(tuple(arguments))


def only_prints(arguments: Sequence[str]) -> bool:
    """Whether a command line asks Hydra to print something instead of running anything."""
    return any(argument.partition("=")[0] in _PRINTING_OPTIONS for argument in arguments)


def _resumed(value: str, arguments: Sequence[str], is_sweep: Callable[[Path], bool]) -> ResumedRun | ResumedSweep:
    allowed: tuple[str, ...] = ()
    kind: type[ResumedRun | ResumedSweep] = ResumedRun
    if is_sweep(Path(value).expanduser()):
        kind, allowed = ResumedSweep, _MULTIRUN_OPTIONS
    changes = tuple(argument for argument in arguments if may_change(argument)) if kind is ResumedRun else ()
    for argument in arguments:
        if argument not in (*allowed, *changes) and not argument.lstrip("+").startswith(("resume=", "trust=")):
            message = f"resume={value} uses the settings stored there: leave out {argument}"
            changed = [a for a in arguments if "=" in a and not a.startswith(("-", "resume=", "trust="))]
            if kind is ResumedRun and changed:
                further = continue_command(Path(value).expanduser().absolute(), changed)
                message += f". To continue a run with other settings in a new folder: {further}"
            raise UserError(message)
    is_trusted = (last_value(arguments, "trust") or "").lower() in ("true", "yes", "on", "y", "1")
    return ResumedRun(value, is_trusted, changes) if kind is ResumedRun else ResumedSweep(value, is_trusted)
