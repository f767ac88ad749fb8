"""Run a command's task in its run folder, or start it as a job of a sweep."""

import logging
import os
import shutil
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sports_lightning.cli.command import Command
from sports_lightning.cli.command_line import repeated_keys
from sports_lightning.cli.distributed import broadcast_job, load_job
from sports_lightning.cli.error_messages import notes
from sports_lightning.cli.process_setup import environment
from sports_lightning.cli.run_start import RunStart
from sports_lightning.config.checks import check_sweep, normalize_composed
from sports_lightning.config.overrides import arguments_from, unresolved
from sports_lightning.config.trusted_targets import check_targets
from sports_lightning.errors import Pruned, RunFolderLocked, ThroughHydra, UserError, WriteFailed
from sports_lightning.runs.changed_settings import forget_changes
from sports_lightning.runs.layout import is_finished
from sports_lightning.runs.process import RUN_FOLDER, is_externally_launched, is_rank_zero
from sports_lightning.runs.provenance import flatten
from sports_lightning.runs.resume import (
    LAST_CHECKPOINT,
    LOCK,
    RESUMES,
    find_interrupted,
    has_checkpoint,
    release_run_folder,
    resume_command,
)
from sports_lightning.runs.signals import Interrupted
from sports_lightning.storage.files import sync_to_disk, write_text
from sports_lightning.sweeps.jobs import Sweep, SweepJob
from sports_lightning.sweeps.start import BASIC_LAUNCHER

log = logging.getLogger(__name__)


def execute(command: Command, cfg: DictConfig, folder: Path) -> int:
    """Run the task and return the exit status. The path of the folder with its results is the last line on stdout.

    Args:
        command: the command.
        cfg: its composed config.
        folder: the run folder, into which Hydra has written the config.

    Raises:
        Exception: what the task raises; a run folder without results is removed first.
    """
    of_user = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    os.environ[RUN_FOLDER] = str(folder)  # for the other processes of a distributed run
    try:
        if is_rank_zero():
            sync_to_disk(folder / ".hydra")  # no checkpoint could be resumed without it
            if is_externally_launched():
                broadcast_job(cfg, folder)
        written = command.task(cfg, folder)
        if written:
            _remove_without_results(folder, command.first_files, of_user)
    except Pruned as pruned:
        if is_rank_zero():
            print(pruned, folder, sep="\n", flush=True)
    except Interrupted as interrupted:
        if not is_rank_zero():
            return 0
        _remove_without_results(folder, command.first_files, of_user)
        print(f"{interrupted}{notes(interrupted)}{_resume_hint(folder)}", file=sys.stderr)
        return interrupted.exit_status
    except Exception as error:
        if is_rank_zero() and not isinstance(error, RunFolderLocked):
            _remove_without_results(folder, command.first_files, of_user)
        if isinstance(error, WriteFailed) and (hint := _resume_hint(folder)):
            error.add_note(hint)
        raise
    else:
        if is_rank_zero():
            print(written or folder, flush=True)
    finally:
        release_run_folder(folder)
        del os.environ[RUN_FOLDER]
        os.environ.pop(RESUMES, None)
    return 0


def execute_resumed(command: Command, folder: Path, changes: Any = None) -> int:
    """Resume the interrupted run in `folder` and return the exit status.

    Args:
        command: the command, train.
        folder: the run folder.
        changes: settings that differ from now on, as nested dicts (see `changed_settings`).
    """
    if changes and is_finished(folder):
        given = ", ".join(flatten(changes))
        raise UserError(
            f"resume={folder} holds a finished run, of which only missing plots are drawn: leave out {given}"
        )
    os.environ[RESUMES] = str(LAST_CHECKPOINT) if has_checkpoint(folder) else "no checkpoint"
    cfg = load_job(folder, changes)
    print(f"resuming {folder}", flush=True)
    return execute(command, cfg, folder)


class ComposedTask:
    """The function that Hydra calls with each composed config: of the run, or of each job of a sweep.

    Args:
        command: the command.
        sweep: starts the jobs.
        is_trusted: whether the configs of the jobs may name any `_target_`; those of a resumed sweep may not.

    Attributes:
        exit_status: of the run.
    """

    def __init__(self, command: Command, sweep: Sweep, is_trusted: bool = True) -> None:
        self.command, self.sweep, self.is_trusted = command, sweep, is_trusted
        self.exit_status = 0
        self.full_error = os.environ.get("HYDRA_FULL_ERROR", "0")  # the user's setting, for the processes of the task

    def run(self, cfg: DictConfig) -> SweepJob | None:
        """Run one config. Errors pass through Hydra, which would print further lines about them.

        Raises:
            ThroughHydra: the task, or the start of a job, has failed.
        """
        hydra_cfg = HydraConfig.get()
        os.chdir(hydra_cfg.runtime.cwd)  # relative paths are resolved from there, also with hydra.job.chdir=true
        is_job = hydra_cfg.mode == RunMode.MULTIRUN
        try:
            with environment(HYDRA_FULL_ERROR=self.full_error):
                if is_job:
                    return self._start_job(cfg, hydra_cfg)
                self._run_alone(cfg, Path(hydra_cfg.runtime.output_dir).absolute())
        except Exception as error:
            if is_job and hydra_cfg.launcher._target_ != BASIC_LAUNCHER:
                raise  # such a launcher returns the error from the machine where the job ran
            raise ThroughHydra(error) from error
        return None

    def _normalize(self, cfg: DictConfig, folder: Path) -> None:
        """Store the normalized config in the run folder, so that later readers need not convert its values."""
        if normalize_composed(cfg, self.command.name):
            write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))

    def _run_alone(self, cfg: DictConfig, folder: Path) -> None:
        for notice in repeated_keys(unresolved(HydraConfig.get().overrides.task)):
            log.info("note: %s", notice)
        self._normalize(cfg, folder)
        interrupted = find_interrupted(cfg, folder, RunStart.overwritten) if cfg.get("resume") == "auto" else None
        if interrupted is None:
            forget_changes(folder)
            self.exit_status = execute(self.command, cfg, folder)
            return
        if interrupted != folder:
            _remove_without_results(folder)
        self.exit_status = execute_resumed(self.command, interrupted)

    def _start_job(self, cfg: DictConfig, hydra_cfg: Any) -> SweepJob:
        if is_externally_launched():
            raise UserError("torchrun and srun can't start a sweep: run its jobs one by one, or start it without them")
        if not self.is_trusted:
            check_targets(OmegaConf.to_container(cfg), f"resume={self.sweep.folder}")
        settings = cfg.get("sweep", {})
        if settings:
            check_sweep(cfg)
        if hydra_cfg.launcher._target_ != BASIC_LAUNCHER:  # such a launcher decides how many jobs run at once
            settings = {**settings, "parallel": 1}
        folder = Path(hydra_cfg.runtime.output_dir).absolute()
        self._normalize(cfg, folder)
        return self.sweep.run(folder, Path(hydra_cfg.sweep.dir), arguments_from(hydra_cfg), settings)


def _resume_hint(folder: Path) -> str:
    command = resume_command(folder)
    return f"; to resume: {command}" if command else ""


def _remove_without_results(
    folder: Path, first_files: tuple[str, ...] = (), of_user: Collection[str] = frozenset()
) -> None:
    """Remove a run folder that holds only what was written when the run started.

    Args:
        folder: the run folder.
        first_files: names of files that the run may have written.
        of_user: names of what was in the folder before, which is kept, and so is the run folder then.
    """
    log_file = folder / f"{HydraConfig.get().job.name}.log"
    entries = list(folder.iterdir()) if folder.is_dir() else []
    empty = [path for path in entries if path.name not in of_user and path.is_dir() and not any(path.iterdir())]
    own_files = [name for name in first_files if name not in of_user]
    removable = {".hydra", LOCK, log_file.name, *own_files}
    if folder.is_dir() and {path.name for path in entries if path not in empty} <= removable:
        with suppress(OSError):
            for path in empty:
                path.rmdir()
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
        with suppress(OSError):  # Windows keeps an open file, and a network drive keeps it under another name
            for name in (*own_files, log_file.name, LOCK):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
