"""The jobs of a sweep (`-m`), each in a process of its own.

A job that crashes, runs out of memory or is killed takes nothing with it, and what a library keeps in memory or in the
environment (Lightning's ranks and ports, a tracked run) ends with its job. No torch in here.
"""

import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sports_lightning.interruption import Interrupted
from sports_lightning.resume import resume_command


@dataclass(frozen=True)
class SweepJob:
    """A job and what came of it.

    Attributes:
        folder: its run folder.
        overrides: its command line.
        status: exit status; negative: killed by that signal; None: not started.
    """

    folder: Path
    overrides: list[str]
    status: int | None


class Sweep:
    """Runs jobs one after the other and remembers how they ended.

    Args:
        command: "train", "evaluate" or "predict".
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.jobs: list[SweepJob] = []
        self.folder = Path()
        self.interrupted = 0  # the exit status, once a signal has come

    def run(self, folder: Path, sweep_folder: Path, overrides: list[str], on_error: str) -> None:
        """Run the job whose config Hydra has written into `folder` and wait for its end.

        With `on_error="stop"` (`sweep.on_error`) nothing is started once a job has failed, nor ever after a signal.
        """
        self.folder = sweep_folder
        if self.interrupted or (on_error == "stop" and any(job.status for job in self.jobs)):
            self.jobs.append(SweepJob(folder, overrides, None))
            return
        process = subprocess.Popen([sys.executable, "-m", f"sports_lightning.{self.command}", "--job", str(folder)])
        try:
            status = process.wait()
        except Interrupted as interrupted:  # the job ends in good order too
            self.interrupted = interrupted.exit_status
            if interrupted.number != signal.SIGINT:  # which a terminal sends to both
                process.send_signal(interrupted.number)
            status = process.wait()
        self.jobs.append(SweepJob(folder, overrides, status))

    def print_summary(self) -> bool:
        """Say which jobs did not finish and how to run just those, then the folder; return whether there are any."""
        lacking = [job for job in self.jobs if job.status != 0]
        if lacking:
            print(f"{len(lacking)} of {len(self.jobs)} jobs did not finish:", file=sys.stderr)
        for job in lacking:
            why = "not started" if job.status is None else f"exit status {job.status}"
            anew = shlex.join(["python", "-m", f"sports_lightning.{self.command}", *job.overrides])
            again = resume_command(job.folder) or anew
            print(f"  {why}; again: {again}", file=sys.stderr)
        print(self.folder.absolute(), flush=True)
        return bool(lacking)
