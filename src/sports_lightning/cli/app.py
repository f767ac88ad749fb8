"""The entry point of every command: from its command line to its exit status."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.errors import HydraException

from sports_lightning import CONF_DIR, __version__
from sports_lightning.cli.command import Command
from sports_lightning.cli.distributed import (
    adopt_slurm_environment,
    broadcast_no_job,
    load_job,
    receive_job,
)
from sports_lightning.cli.error_messages import ErrorReporter
from sports_lightning.cli.execute import ComposedTask, execute, execute_resumed
from sports_lightning.cli.help_text import help_text
from sports_lightning.cli.launch import (
    Composed,
    Help,
    Launch,
    ReceivedJob,
    ResumedRun,
    ResumedSweep,
    StoredJob,
    Version,
    only_prints,
    parse_launch,
)
from sports_lightning.cli.process_setup import environment, prepare_process
from sports_lightning.config.overrides import format_command, rename_keys
from sports_lightning.errors import UserError
from sports_lightning.runs.changed_settings import read_changes
from sports_lightning.runs.console import lost_output
from sports_lightning.runs.process import Process, is_externally_launched, is_rank_zero, remove_stray_ranks
from sports_lightning.runs.signals import Interrupted, listen
from sports_lightning.sweeps.jobs import Sweep
from sports_lightning.sweeps.resume import open_sweep
from sports_lightning.sweeps.start import SweepStart


def main(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    An error that a user can cause is one line on stderr and exit status 1. Anything else is a bug and keeps its
    traceback, as does every error with HYDRA_FULL_ERROR=1 in the environment. A signal that ends the command is one
    line too, and exit status 128 + its number (see runs.signals).

    Args:
        command: the command.
        argv: its command line without the program; that of this process by default.
    """
    arguments, notices = rename_keys(list(sys.argv[1:] if argv is None else argv))
    prepare_process()
    listen()
    sweep = Sweep(command.name)
    reporter = ErrorReporter(command.name)
    with reporter:
        try:
            adopt_slurm_environment()
            remove_stray_ranks()
            if is_rank_zero():
                print(*(f"note: {notice}\n" for notice in notices), sep="", end="", file=sys.stderr)
            launch = parse_launch(command, arguments, Process.from_environment())
            reporter.exit_status = _start(launch, command, sweep)
        except Interrupted as interrupted:  # outside a run; a run itself reports how to resume it
            print(interrupted, file=sys.stderr)
            reporter.exit_status = interrupted.exit_status
            sweep.interrupt(interrupted)
        finally:
            sweep.stop(signal.SIGTERM)  # the jobs that still run after an error
            _release_ranks(command, arguments)
    if sweep.folder != Path():  # a sweep has started
        with reporter:
            try:
                is_unfinished = sweep.print_summary(command.after_sweep)  # also after an error or a signal
                reporter.exit_status = reporter.exit_status or int(is_unfinished)
            except Interrupted as interrupted:
                command_line = format_command(command.name, [f"resume={sweep.folder.absolute()}"])
                print(f"{interrupted}; to sum up the finished jobs: {command_line}", file=sys.stderr)
                reporter.exit_status = interrupted.exit_status
    if error := lost_output(sys.stdout):
        text = f"can't write the standard output: {error.strerror}"
        if only_prints(arguments):
            print(f"error: {text}", file=sys.stderr)
            return 1
        print(f"warning: {text}; files are written all the same", file=sys.stderr)
    return reporter.exit_status


def _start(launch: Launch, command: Command, sweep: Sweep) -> int:
    SweepStart.folder, SweepStart.resumes = None, False  # of an earlier sweep in this process
    match launch:
        case Version():
            print(f"sports_lightning {__version__}")
        case Help(overrides):
            print(help_text(command.name, overrides))
        case StoredJob(folder):
            return execute(command, load_job(folder), folder)
        case ReceivedJob():
            return execute(command, *receive_job())
        case ResumedRun(value, is_trusted, changes):
            assert command.resume is not None
            return execute_resumed(command, command.resume(value, is_trusted), read_changes(changes))
        case ResumedSweep(value, is_trusted):
            stored = open_sweep(value, is_trusted)
            sweep.folder, sweep.overwritten_files, SweepStart.resumes = stored.folder, stored.overwritten_files, True
            arguments, _ = rename_keys(stored.arguments)
            return _compose(arguments, ComposedTask(command, sweep, is_trusted), sweep)
        case Composed(arguments):
            return _compose(arguments, ComposedTask(command, sweep), sweep)
    return 0


def _compose(arguments: Sequence[str], task: ComposedTask, sweep: Sweep) -> int:
    """Call `task` with the config that Hydra composes, or with each config of a sweep."""
    if "${" in os.getcwd():
        raise UserError(f"the working folder {os.getcwd()} has ${{ in its name, which Hydra replaces: work elsewhere")
    hydra_main = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=task.command.name)
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]  # where Hydra reads its command line
    try:
        with environment(HYDRA_FULL_ERROR="1"):  # Hydra raises its errors instead of printing them
            hydra_main(task.run)()
    except OSError as error:  # errors of the task arrive as ThroughHydra
        if isinstance(error, HydraException):
            raise
        where = error.filename or "the run folder"
        if Path(where).suffix == ".yaml" and Path(where).parent.name != ".hydra":
            raise UserError(f"can't read {where}: {error.strerror or error}") from error
        raise UserError(
            f"can't write {where}: {error.strerror or error}; choose another place with hydra.run.dir=FOLDER"
        ) from error
    finally:
        sys.argv = before
    sweep.finish()
    return task.exit_status


def _release_ranks(command: Command, arguments: Sequence[str]) -> None:
    """Stop the other ranks if they still wait for a job from this one, the first rank."""
    if command.distributed and is_externally_launched() and is_rank_zero() and not only_prints(arguments):
        with suppress(UserError):
            broadcast_no_job()
