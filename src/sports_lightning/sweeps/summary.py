"""What a sweep has found: a table of its jobs by validation accuracy, and the best one's command line."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sports_lightning.config.overrides import config_dirs, format_command
from sports_lightning.runs.layout import PRUNED, is_finished
from sports_lightning.storage.files import write_csv
from sports_lightning.sweeps.resume import MULTIRUN

_SHOWN = 20  # jobs, in the terminal; sweep.csv has all


@dataclass(frozen=True)
class JobResult:
    """A job that came to an end.

    Attributes:
        name: its folder's.
        overrides: its command line.
        accuracy: on val, of the best checkpoint, or of the epoch after which it was pruned.
        interval: the former's 95 % interval, both ends.
        seconds: wall time; None where it was pruned.
    """

    name: str
    overrides: list[str]
    accuracy: float
    interval: tuple[float, float] | None
    seconds: float | None


def job_folders(sweep_folder: Path) -> dict[Path, list[str]]:
    """{run folder: command line} of the jobs of a sweep."""
    files = sorted(sweep_folder.glob("*/.hydra/overrides.yaml"))
    if not files:
        return {}
    of_all = config_dirs(OmegaConf.load(sweep_folder / MULTIRUN).hydra)
    return {file.parents[1]: [*of_all, *map(str, OmegaConf.load(file))] for file in files}


def read_results(sweep_folder: Path) -> list[JobResult]:
    """The jobs of a sweep of train that came to an end, best first; pruned ones after the others."""
    found = []
    for folder, overrides in job_folders(sweep_folder).items():
        if is_finished(folder):
            val = _read(folder / "metrics.json")["val"]
            seconds = _read(folder / "run.json")["seconds"]
            found.append(JobResult(folder.name, overrides, val["acc"], tuple(val["ci95"]["acc"]), seconds))
        elif (folder / PRUNED).exists():
            found.append(JobResult(folder.name, overrides, _read(folder / PRUNED)["value"], None, None))
    return sorted(found, key=lambda job: (job.interval is None, -job.accuracy))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(sweep_folder: Path) -> None:
    """Write `sweep.csv` and print the table, the best job's command line and what compares all of them."""
    jobs = read_results(sweep_folder)
    if not jobs:
        return
    common = set.intersection(*(set(job.overrides) for job in jobs))
    chosen = [[override for override in job.overrides if override not in common] for job in jobs]
    keys = list(dict.fromkeys(override.partition("=")[0] for overrides in chosen for override in overrides))
    rows = []
    for job, overrides in zip(jobs, chosen, strict=True):
        values = dict(override.split("=", 1) for override in overrides)
        ends = job.interval or ("", "")
        state = "pruned" if job.interval is None else "finished"
        rows.append([job.name, state, job.accuracy, *ends, job.seconds or "", *(values.get(key, "") for key in keys)])
    write_csv(sweep_folder / "sweep.csv", ["job", "state", "val/acc", "low", "high", "seconds", *keys], rows)
    print(f"\n{'job':>4} {'val/acc':>8} {'95 % interval':>14} {'seconds':>8}")
    for job, overrides in list(zip(jobs, chosen, strict=True))[:_SHOWN]:
        interval = f"{job.interval[0]:.3f} – {job.interval[1]:.3f}" if job.interval else "pruned"
        seconds = "" if job.seconds is None else f"{job.seconds:.0f}"
        print(f"{job.name:>4} {job.accuracy:8.4f} {interval:>14} {seconds:>8}  {shlex.join(overrides)}")
    if len(jobs) > _SHOWN:
        print(f"… and {len(jobs) - _SHOWN} more in {sweep_folder / 'sweep.csv'}")
    print(f"best on val, alone: {format_command('train', jobs[0].overrides)}")
    print(
        f"which differences are more than chance: python -m sports_lightning.compare {shlex.quote(str(sweep_folder))}"
    )
