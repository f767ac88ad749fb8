"""The result of a sweep: its jobs ranked by validation accuracy, and the best job's command line."""

import json
import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sports_lightning.config.overrides import format_command
from sports_lightning.runs.layout import PRUNED, is_finished
from sports_lightning.storage.files import DAMAGED, write_csv
from sports_lightning.sweeps.resume import FOLD, job_folders

log = logging.getLogger(__name__)

_PRINTED_JOBS = 20  # sweep.csv has all


@dataclass(frozen=True)
class JobResult:
    """A job that is finished or was pruned.

    Attributes:
        name: the job's folder, relative to the sweep folder.
        overrides: the job's command line.
        accuracy: on val, of the best checkpoint; of a pruned job: after its last epoch.
        interval: 95 % confidence interval of the accuracy (low, high); None for a pruned job.
        seconds: wall time; None for a pruned job.
    """

    name: str
    overrides: list[str]
    accuracy: float
    interval: tuple[float, float] | None
    seconds: float | None

    @property
    def is_pruned(self) -> bool:
        """Whether the search stopped the job early."""
        return self.interval is None


def read_results(sweep_folder: Path) -> list[JobResult]:
    """The finished and pruned jobs of a sweep of train: the finished ones by accuracy, best first, then the pruned."""
    results = []
    for folder, overrides in job_folders(sweep_folder).items():
        try:
            results += _read_result(folder, os.path.relpath(folder, sweep_folder), overrides)
        except DAMAGED as error:
            log.warning("%s is left out of the table, since it is damaged: %s", folder, error)
    return sorted(results, key=lambda job: (job.is_pruned, -job.accuracy))


def _read_result(folder: Path, name: str, overrides: list[str]) -> list[JobResult]:
    """The result of a job; none if it has not ended."""
    if is_finished(folder):
        val = _read_json(folder / "metrics.json")["val"]
        seconds = _read_json(folder / "run.json")["seconds"]
        return [JobResult(name, overrides, float(val["acc"]), tuple(val["ci95"]["acc"]), seconds)]
    if (folder / PRUNED).exists():
        pruned = _read_json(folder / PRUNED)
        accuracy = pruned.get("val/acc", pruned["value"])  # version 0.1 stored the objective alone
        return [JobResult(name, overrides, float(accuracy), None, None)]
    return []


def write_table(sweep_folder: Path) -> None:
    """Write `sweep.csv`; print the table, the best job's command line and the command that compares the jobs."""
    jobs = read_results(sweep_folder)
    if not jobs:
        return
    shared = set.intersection(*(set(job.overrides) for job in jobs))
    varied = {job.name: [override for override in job.overrides if override not in shared] for job in jobs}
    _write_csv(jobs, varied, sweep_folder / "sweep.csv")
    _print_table(jobs, varied, sweep_folder)


def _write_csv(jobs: list[JobResult], varied: dict[str, list[str]], path: Path) -> None:
    keys = list(dict.fromkeys(override.partition("=")[0] for overrides in varied.values() for override in overrides))
    rows = []
    for job in jobs:
        values = dict(override.split("=", 1) for override in varied[job.name])
        state = "pruned" if job.is_pruned else "finished"
        metrics = [job.accuracy, *(job.interval or ("", "")), "" if job.seconds is None else job.seconds]
        rows.append([job.name, state, *metrics, *(values.get(key, "") for key in keys)])
    write_csv(path, ["job", "state", "val/acc", "low", "high", "seconds", *keys], rows)


def _print_table(jobs: list[JobResult], varied: dict[str, list[str]], sweep_folder: Path) -> None:
    width = max(4, *(len(job.name) for job in jobs[:_PRINTED_JOBS]))
    print(f"\n{'job':>{width}} {'val/acc':>8} {'95 % interval':>14} {'seconds':>8}")
    for job in jobs[:_PRINTED_JOBS]:
        interval = f"{job.interval[0]:.3f} – {job.interval[1]:.3f}" if job.interval else "pruned"
        seconds = "" if job.seconds is None else f"{job.seconds:.0f}"
        settings = shlex.join(varied[job.name])
        print(f"{job.name:>{width}} {job.accuracy:8.4f} {interval:>14} {seconds:>8}  {settings}")
    if len(jobs) > _PRINTED_JOBS:
        print(f"… and {len(jobs) - _PRINTED_JOBS} more in {sweep_folder / 'sweep.csv'}")
    if any(setting.startswith(FOLD) for setting in varied[jobs[0].name]):
        return  # the jobs are folds, on different images: none is the best
    print(f"best accuracy on val, as a single run: {format_command('train', jobs[0].overrides)}")
    print(f"to test the differences: python -m sports_lightning.compare {shlex.quote(str(sweep_folder))}")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
