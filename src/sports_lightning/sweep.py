"""The jobs of a sweep (`-m`), each in a process of its own.

A job that crashes, runs out of memory or is killed takes nothing with it, and what a library keeps in memory or in the
environment (Lightning's ranks and ports, a tracked run) ends with its job. No torch in here.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepJob:
    """A job that has ended.

    Attributes:
        folder: its run folder.
        overrides: what sets it apart from the others.
        status: exit status; negative: killed by that signal; None: not started.
    """

    folder: Path
    overrides: list[str]
    status: int | None


def run_sweep_job(folder: Path, overrides: list[str], variable: str, before: list[SweepJob], on_error: str) -> SweepJob:
    """Run the job whose config Hydra has written into `folder` and wait for its end.

    Args:
        folder: the job's run folder.
        overrides: its part of the command line.
        variable: the environment variable that tells the process which folder is its.
        before: the jobs that have ended; with one that failed among them, "stop" starts no more.
        on_error: `sweep.on_error`, "continue" or "stop".
    """
    if on_error == "stop" and any(job.status for job in before):
        return SweepJob(folder, overrides, None)
    module = sys.modules["__main__"].__spec__
    assert module is not None, "commands are started with python -m"
    environment = {**os.environ, variable: str(folder.absolute())}
    status = subprocess.run([sys.executable, "-m", module.name], env=environment, check=False).returncode
    return SweepJob(folder, overrides, status)


def print_summary(jobs: list[SweepJob], config_name: str) -> bool:
    """Say which jobs failed and how to run just those again; return whether any did. Ends with the sweep's folder."""
    lacking = [job for job in jobs if job.status != 0]
    if lacking:
        print(f"{len(lacking)} of {len(jobs)} jobs failed:", file=sys.stderr)
    for job in lacking:
        why = "not started" if job.status is None else f"exit status {job.status}"
        command = shlex.join(["python", "-m", f"sports_lightning.{config_name}", *job.overrides])
        print(f"  {why}; again: {command}", file=sys.stderr)
    print(Path(jobs[0].folder).parent, flush=True)
    return bool(lacking)
