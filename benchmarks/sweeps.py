"""A grid and a search on two devices: one folder and one W&B run per job; no trial is lost or run twice after a kill.

    python benchmarks/sweeps.py

Runs a grid of two models and two learning rates, then an Optuna search of eight trials that is killed half-way with
all its processes and resumed. Reads back the offline W&B run of each job. Exits with an error if anything is not as
documented.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from wandb_file import read_offline_run

SETTINGS = [
    "data=sample", "data.num_workers=0", "data.audit=false", "model.image_size=64", "trainer.accelerator=cpu",
    "trainer.devices=2", "trainer.enable_progress_bar=false", "trainer.limit_train_batches=4",
]  # fmt: skip


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start train in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "sports_lightning.train", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the process, which must succeed, and return its output."""
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return printed


def check_job(folder: Path, group: str) -> None:
    """Check that the job has one W&B run, with its config and the metrics of its `metrics.json`."""
    (tracked,) = (folder / "wandb").glob("offline-run-*")
    run = read_offline_run(tracked)
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    assert run.group == group, run.group
    assert run.job_type == "train"
    assert run.config["optimizer"]["lr"] == config["optimizer"]["lr"]
    assert run.config["model"]["name"] == config["model"]["name"]
    assert len(run.config["git"]["commit"]) in (0, 40)
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    for split, values in metrics.items():
        for name in ("loss", "acc", "acc_top5", "f1_macro", "precision_macro", "recall_macro"):
            assert run.summary[f"best/{split}/{name}"] == values[name], (split, name)
    assert run.summarised_by["val/acc"] == "max"
    assert run.summarised_by["val/loss"] == "min"
    assert {"parameters", "flops", "latency_ms", "images_per_second", "predictions/nrows"} <= run.summary.keys()


def jobs_of(sweep: Path) -> list[Path]:
    """The run folders of the jobs of a sweep."""
    return sorted(path for path in sweep.iterdir() if path.is_dir())


def grid(cwd: Path) -> None:
    """A grid of four jobs."""
    arguments = ["-m", "trainer.max_epochs=1", "model=simple_cnn,scratch_cnn", "optimizer.lr=1e-3,3e-3"]
    printed = finish(start(cwd, *SETTINGS, *arguments))
    (folder,) = (cwd / "outputs").iterdir()
    (sweep,) = folder.iterdir()
    assert printed.strip().splitlines()[-1] == str(sweep)
    assert [job.name for job in jobs_of(sweep)] == ["0", "1", "2", "3"]
    for job in jobs_of(sweep):
        check_job(job, sweep.name)
    print("grid: 4 job folders, 1 sweep folder, 4 tracked runs with the metrics of metrics.json")


def search(cwd: Path) -> None:
    """A search of eight trials, killed after the fourth has started."""
    sweep = cwd / "search"
    arguments = ["sweep=optuna", "hydra.sweeper.n_trials=8", "trainer.max_epochs=3", f"hydra.sweep.dir={sweep}"]
    arguments.append("hydra.sweeper.pruner.n_startup_trials=2")
    arguments.append("hydra.sweeper.pruner.n_warmup_steps=0")
    process = start(cwd, *SETTINGS, *arguments)
    while not (sweep / "3" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    for line in subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines():
        if str(sweep) in line and "--job" in line:  # the other ranks have their own process groups
            os.kill(int(line.split()[0]), signal.SIGKILL)
    process.wait()
    before = states(sweep)
    printed = finish(start(cwd, f"resume={sweep}"))
    after = states(sweep)
    assert before["RUNNING"] == 1, before
    assert after["COMPLETE"] + after["PRUNED"] == 8 == sum(after.values()), after
    assert [job.name for job in jobs_of(sweep)] == [str(number) for number in range(8)]
    for job in jobs_of(sweep):
        assert (job / "metrics.json").exists() != (job / "pruned.json").exists()
        assert len(list((job / "wandb").glob("offline-run-*"))) == 1 + (job.name == "3"), (
            "the killed one has two W&B files"
        )
        if (job / "metrics.json").exists() and job.name != "3":
            check_job(job, sweep.name)
    assert "best on val, as a single run: python -m sports_lightning.train" in printed
    print(f"search: {dict(before)} when killed, {dict(after)} at the end")


def states(sweep: Path) -> Counter[str]:
    """{state: number of trials} of the study of a search."""
    with sqlite3.connect(sweep / "study.db") as database:
        return Counter(state for (state,) in database.execute("select state from trials"))


def main() -> None:
    """Run both."""
    with tempfile.TemporaryDirectory() as folder:
        grid(Path(folder))
        search(Path(folder))


if __name__ == "__main__":
    main()
