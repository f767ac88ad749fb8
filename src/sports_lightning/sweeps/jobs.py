"""The jobs of a sweep (`-m`), each in a process of its own.

A job that crashes, runs out of memory or is killed takes nothing with it, and what a library keeps in memory or in the
environment (Lightning's ranks and ports, a tracked run) ends with its job. No torch in here.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sports_lightning.config.overrides import format_command
from sports_lightning.errors import ThroughHydra, UserError
from sports_lightning.runs.layout import is_over
from sports_lightning.runs.resume import RESUMES, has_checkpoint, is_free, resume_command
from sports_lightning.runs.signals import Interrupted
from sports_lightning.storage.files import sync_to_disk, write_bytes
from sports_lightning.sweeps.resume import MULTIRUN, SWEEP, check_sweep_folder
from sports_lightning.sweeps.summary import job_folders, write_table

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"

_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass
class SweepJob:
    """A job and what comes of it.

    Attributes:
        folder: its run folder.
        overrides: its command line.
        status: exit status; negative: killed by that signal; None: it runs, or was not started.
        process: in which it runs or has run.
        slot: which share of the machine it has.
    """

    folder: Path
    overrides: list[str]
    status: int | None = None
    process: subprocess.Popen[bytes] | None = None
    slot: int = 0

    def start(self, command: str, sweep_folder: Path, slot: int, parallel: int) -> None:
        """Start its process, or one that goes on where an earlier one was interrupted, on its share of the machine."""
        environment = {**os.environ, SWEEP: str(sweep_folder.absolute())}
        if has_checkpoint(self.folder):
            environment[RESUMES] = "1"
        self.slot = slot
        if parallel > 1 and (gpus := _gpus()):
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::parallel] or [gpus[slot % len(gpus)]])
        arguments = [sys.executable, "-m", f"sports_lightning.{command}", "--job", str(self.folder)]
        # A signal to the group, such as a terminal's Ctrl-C, comes once, by way of this process.
        self.process = subprocess.Popen(arguments, env=environment, process_group=0)
        if parallel > 1 and hasattr(os, "sched_setaffinity"):  # torch takes as many threads as it has cores
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self.process.pid, cores[slot::parallel] or [cores[slot % len(cores)]])

    def is_running(self) -> bool:
        """Whether its process has not ended yet."""
        if self.process and self.status is None:
            self.status = self.process.poll()
        return self.process is not None and self.status is None

    def __getstate__(self) -> dict[str, Any]:
        """What a launcher on another machine sends back."""
        return {**vars(self), "process": None}


class SweepStart(Callback):
    """Called by Hydra with the composed config of a sweep; `conf/hydra/base.yaml` declares it.

    Attributes:
        folder: of the sweep, if another launcher than Hydra's own runs its jobs elsewhere.
        resumes: whether the sweep is resumed in its folder.
    """

    folder: ClassVar[Path | None] = None
    resumes: ClassVar[bool] = False

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a folder that holds another sweep, and remember the folder of jobs that run elsewhere.

        Raises:
            ThroughHydra: with the UserError.
        """
        launcher, folder = config.hydra.launcher, Path(os.path.abspath(config.hydra.sweep.dir))
        is_train = config.hydra.job.config_name == "train"
        if not SweepStart.resumes:
            try:
                check_sweep_folder(folder, is_resumable=is_train)
            except UserError as error:
                raise ThroughHydra(error) from error
        if launcher.get("nodes", 1) * launcher.get("tasks_per_node", 1) > 1:
            raise ThroughHydra(
                UserError("hydra.launcher starts one task per job: for more, run the job alone, with srun")
            )
        if launcher._target_ != BASIC_LAUNCHER and is_train:
            SweepStart.folder = folder


class Sweep:
    """Runs jobs, one after the other or several at once, and remembers how they ended.

    Args:
        command: "train", "evaluate" or "predict".
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.jobs: list[SweepJob] = []
        self.folder = Path()
        self.kept: dict[Path, bytes] = {}  # what Hydra writes over in a sweep that goes on
        self.is_interrupted = False

    def run(self, folder: Path, sweep_folder: Path, overrides: list[str], settings: Mapping[str, Any]) -> SweepJob:
        """Run the job whose config Hydra has written into `folder`, unless it is over, and wait until there is room.

        Args:
            folder: the job's run folder.
            sweep_folder: what holds those of all jobs.
            overrides: the job's command line.
            settings: `conf/sweep/default.yaml`.
        """
        self.folder = sweep_folder
        for file in [file for file in self.kept if file.is_relative_to(folder) or file.parent == sweep_folder]:
            write_bytes(file, self.kept.pop(file))
        sync_to_disk(sweep_folder / MULTIRUN)
        parallel = settings.get("parallel", 1)
        job = SweepJob(folder, overrides)
        while len(running := [other for other in self.jobs if other.is_running()]) >= parallel:
            wait_for_one(running)
        failed = any(other.status for other in self.jobs)
        self.jobs.append(job)
        if is_over(folder):
            job.status = 0
        elif is_free(folder) and not (failed and settings.get("on_error") == "stop"):
            slot = min(set(range(parallel)) - {other.slot for other in running})
            job.start(self.command, sweep_folder, slot, parallel)
            if parallel == 1:
                try:
                    wait_for_one([job])
                except SystemExit:  # a launcher has been told to make room; it starts the job once more
                    self.stop(signal.SIGTERM)
                    raise
        return job

    def finish(self) -> None:
        """Wait for the jobs that still run, and take in those that a launcher has run elsewhere."""
        for job in self.jobs:
            wait_for_one([job])
        if SweepStart.folder:
            self.folder, SweepStart.folder = SweepStart.folder, None
            for folder, overrides in job_folders(self.folder).items():
                self.jobs.append(SweepJob(folder, overrides, 0 if is_over(folder) else None))

    def stop(self, number: int) -> None:
        """Hand a signal on to the jobs that run, and wait until they have ended in good order."""
        running = [job for job in self.jobs if job.is_running()]
        for job in running:
            if job.process:
                job.process.send_signal(number)
        for job in running:
            wait_for_one([job])

    def interrupt(self, interrupted: Interrupted) -> None:
        """End with a signal that has come."""
        self.is_interrupted = True
        self.stop(interrupted.number)

    def print_summary(self) -> bool:
        """Say which jobs did not finish and how to run just those; return whether there are any."""
        lacking = [job for job in self.jobs if job.status != 0]
        if lacking:
            print(f"{len(lacking)} of {len(self.jobs)} jobs did not finish:", file=sys.stderr)
        for job in lacking:
            why = "not finished" if job.status is None else f"exit status {job.status}"
            alone = format_command(self.command, job.overrides)
            print(f"  job {job.folder.name}: {why}; again: {resume_command(job.folder) or alone}", file=sys.stderr)
        if self.command == "train" and (lacking or self.is_interrupted):
            print(f"all that is left: {format_command('train', [f'resume={self.folder.absolute()}'])}", file=sys.stderr)
        if self.command == "train":
            write_table(self.folder.absolute())
        print(self.folder.absolute(), flush=True)
        return bool(lacking)


def wait_for_one(jobs: Sequence[SweepJob]) -> None:
    """Wait until at least one of some jobs does not run any more."""
    while all(job.is_running() for job in jobs):
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _gpus() -> list[str]:
    """The NVIDIA GPUs that this process sees, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
