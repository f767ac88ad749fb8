"""The jobs of a sweep (`-m`), each in its own process.

A job that crashes, runs out of memory or is killed does not affect the others, and global state of libraries
(Lightning's ranks and ports, a W&B run) ends with its job.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sports_lightning.config.overrides import format_command
from sports_lightning.runs.layout import has_ended
from sports_lightning.runs.resume import RESUMES, has_checkpoint, is_free, resume_command
from sports_lightning.runs.signals import Interrupted
from sports_lightning.storage.files import sync_to_disk, write_bytes
from sports_lightning.sweeps.resume import MULTIRUN, SWEEP, job_folders
from sports_lightning.sweeps.start import SweepStart
from sports_lightning.sweeps.summary import write_table

_POLL_SECONDS = 0.1


@dataclass
class SweepJob:
    """A job and its outcome.

    Attributes:
        folder: the job's run folder.
        overrides: the job's command line.
        status: exit status; negative: the job was killed by that signal; None: it is running or was not started.
        process: the job's process, if it was started here.
        slot: which share of the machine the job gets, from 0.
    """

    folder: Path
    overrides: list[str]
    status: int | None = None
    process: subprocess.Popen[bytes] | None = None
    slot: int = 0

    def start(self, command: str, sweep_folder: Path, slot: int, parallel: int) -> None:
        """Start the process on its share of the machine; it resumes the run if there is a checkpoint."""
        environment = {**os.environ, SWEEP: str(sweep_folder.absolute())}
        if has_checkpoint(self.folder):
            environment[RESUMES] = "1"
        self.slot = slot
        if parallel > 1 and (gpus := _visible_gpus()):
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::parallel] or [gpus[slot % len(gpus)]])
        arguments = [sys.executable, "-m", f"sports_lightning.{command}", "--job", str(self.folder)]
        # With its own process group, the job receives Ctrl-C once: from this process, not from the terminal too.
        self.process = subprocess.Popen(arguments, env=environment, process_group=0)
        if parallel > 1 and hasattr(os, "sched_setaffinity"):  # torch uses as many threads as it has cores
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self.process.pid, cores[slot::parallel] or [cores[slot % len(cores)]])

    def is_running(self) -> bool:
        """Whether the process was started and has not ended yet."""
        if self.process and self.status is None:
            self.status = self.process.poll()
        return self.process is not None and self.status is None

    def __getstate__(self) -> dict[str, Any]:
        """The state that a launcher sends back from another machine: everything except the process."""
        return {**vars(self), "process": None}


class Sweep:
    """Runs jobs, one after the other or several at once, and collects their exit statuses.

    Args:
        command: "train", "evaluate" or "predict".
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.jobs: list[SweepJob] = []
        self.folder = Path()
        self.overwritten_files: dict[Path, bytes] = {}  # their old content, where Hydra overwrites it
        self.is_interrupted = False

    def run(self, folder: Path, sweep_folder: Path, overrides: list[str], settings: Mapping[str, Any]) -> SweepJob:
        """Run one job unless it has already ended. Waits for a free slot; with a single slot, waits for the job too.

        Args:
            folder: the job's run folder, which holds the config that Hydra has written.
            sweep_folder: the folder of the whole sweep.
            overrides: the job's command line.
            settings: `conf/sweep/default.yaml`.
        """
        self.folder = sweep_folder
        for file in [
            file for file in self.overwritten_files if file.is_relative_to(folder) or file.parent == sweep_folder
        ]:
            write_bytes(file, self.overwritten_files.pop(file))
        sync_to_disk(sweep_folder / MULTIRUN)
        parallel = settings.get("parallel", 1)
        job = SweepJob(folder, overrides)
        while len(running := [other for other in self.jobs if other.is_running()]) >= parallel:
            wait_for_any(running)
        has_failure = any(other.status for other in self.jobs)
        self.jobs.append(job)
        if has_ended(folder):
            job.status = 0
        elif is_free(folder) and not (has_failure and settings.get("on_error") == "stop"):
            slot = min(set(range(parallel)) - {other.slot for other in running})
            job.start(self.command, sweep_folder, slot, parallel)
            if parallel == 1:
                try:
                    wait_for_any([job])
                except SystemExit:  # a cluster's launcher was preempted; it will start the job again
                    self.stop(signal.SIGTERM)
                    raise
        return job

    def finish(self) -> None:
        """Wait for the running jobs, and add those that a launcher ran on other machines."""
        for job in self.jobs:
            wait_for_any([job])
        if SweepStart.folder:
            self.folder, SweepStart.folder = SweepStart.folder, None
            self.jobs += [SweepJob(folder, overrides) for folder, overrides in job_folders(self.folder).items()]

    def stop(self, number: int) -> None:
        """Send the signal `number` to the running jobs and wait until they have ended."""
        running = [job for job in self.jobs if job.is_running()]
        for job in running:
            if job.process:
                with suppress(ValueError):  # Windows sends Ctrl-C to all processes of a console itself
                    job.process.send_signal(number)
        for job in running:
            wait_for_any([job])

    def interrupt(self, interrupted: Interrupted) -> None:
        """Pass the received signal on to the jobs and wait for them."""
        self.is_interrupted = True
        self.stop(interrupted.number)

    def print_summary(self, after_sweep: Callable[[Path, dict[Path, list[str]]], bool] | None = None) -> bool:
        """Print the results and the unfinished jobs with the commands that rerun them.

        Args:
            after_sweep: see `cli.command`.

        Returns:
            Whether any job is unfinished, or the result of the sweep is missing.
        """
        for job in self.jobs:
            if job.status is None and has_ended(job.folder):  # on another machine, or in a process of a killed sweep
                job.status = 0
        unfinished = [job for job in self.jobs if job.status != 0]
        folder = self.folder.absolute()
        if unfinished:
            print(f"{len(unfinished)} of {len(self.jobs)} jobs did not finish:", file=sys.stderr)
        for job in unfinished:
            reason = _why_unfinished(job)
            command = resume_command(job.folder) or format_command(self.command, job.overrides)
            print(f"  job {os.path.relpath(job.folder, folder)}: {reason}; to run it again: {command}", file=sys.stderr)
        if self.command == "train" and (unfinished or self.is_interrupted):
            command = format_command("train", [f"resume={folder}"])
            print(f"to run all unfinished jobs: {command}", file=sys.stderr)
        if self.command == "train":
            write_table(folder)
        is_complete = after_sweep is None or after_sweep(folder, {job.folder: job.overrides for job in self.jobs})
        print(folder, flush=True)
        return bool(unfinished) or not is_complete


def _why_unfinished(job: SweepJob) -> str:
    if job.status is not None:
        return f"exit status {job.status}"
    return "not finished" if is_free(job.folder) else "another process is running it"


def wait_for_any(jobs: Sequence[SweepJob]) -> None:
    """Wait until at least one of the jobs is not running."""
    while all(job.is_running() for job in jobs):
        time.sleep(_POLL_SECONDS)


def _visible_gpus() -> list[str]:
    """The NVIDIA GPUs visible to this process, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
