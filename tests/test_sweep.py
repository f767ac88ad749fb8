"""Sweeps: one run folder per job, on any number of devices, and how failed jobs are reported."""

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from commands import jobs_in_this_process, run_command, try_command
from conftest import FAST
from processes import Process, locked_by_another_process, run_process
from sports_lightning.sweeps.jobs import Sweep
from wandb_file import read_offline_run

QUICK = ["trainer.max_epochs=1", "trainer.limit_train_batches=4", "data.num_workers=0"]


@pytest.mark.slow
def test_a_sweep_over_two_devices_is_one_folder_with_one_run_per_job(few: Path, tmp_path: Path) -> None:
    arguments = [f"data.root={few}", "trainer.devices=2", "optimizer.lr=1e-3,3e-3"]
    result = run_process("train", "-m", *FAST, *QUICK, *arguments)
    (sweep,) = (tmp_path / "outputs").iterdir()
    (folder,) = sweep.iterdir()
    assert result.stdout.strip().splitlines()[-1] == str(folder)
    assert {path.name for path in folder.iterdir()} == {"0", "1", "multirun.yaml", "sweep.csv"}
    for name, lr in (("0", 1e-3), ("1", 3e-3)):
        job = folder / name
        assert yaml.safe_load((job / ".hydra/config.yaml").read_text())["optimizer"]["lr"] == lr
        metrics = json.loads((job / "metrics.json").read_text())
        assert set(metrics) == {"val", "test", "train"}
        assert [path.name for path in job.glob("*.log")] == ["train.log"], "no stray logs of other ranks"
        (tracked,) = (job / "wandb").glob("offline-run-*")  # one per job
        run = read_offline_run(tracked)
        assert run.group == folder.name
        assert run.config["optimizer"]["lr"] == lr
        assert run.summary["best/test/acc"] == metrics["test"]["acc"]
    losses = [json.loads((folder / name / "metrics.json").read_text())["train"]["loss"] for name in "01"]
    assert losses[0] != losses[1], "each trained with its own rate"


@pytest.mark.slow
def test_a_failed_job_does_not_stop_the_others_and_is_named_with_its_command(few: Path, tmp_path: Path) -> None:
    overrides = [*FAST, *QUICK, f"data.root={few}", "logger=csv", "optimizer.name=nope,adamw"]
    with jobs_in_this_process():
        result = try_command("train", "-m", *overrides, "hydra.sweep.dir=sweep")
    assert result.status == 1
    assert not (tmp_path / "sweep/0").exists(), "nothing half-written"
    assert (tmp_path / "sweep/1/metrics.json").exists()
    assert "1 of 2 jobs did not finish" in result.stderr
    (again,) = [line for line in result.stderr.splitlines() if "run it again:" in line]
    assert "optimizer.name=nope" in again
    assert "adamw" not in again
    before = {path: path.read_bytes() for path in (tmp_path / "sweep/1").rglob("*") if path.is_file()}
    with jobs_in_this_process():
        result = try_command("train", "resume=sweep")
    assert "optimizer.name=nope" in result.stderr, "the unfinished job is run again"
    after = {path: path.read_bytes() for path in before}
    assert [path.name for path in before if before[path] != after[path]] == [], "and nothing else"
    shutil.move(tmp_path / "sweep", tmp_path / "René (2)")
    with jobs_in_this_process():
        moved = try_command("train", "resume='René (2)'")
        assert "optimizer.name=nope" in moved.stderr, "a moved sweep resumes where it is now"
        assert not (tmp_path / "sweep").exists()
        result = try_command("train", "-m", *overrides, "hydra.sweep.dir=stopped", "sweep.on_error=stop")
    assert result.status == 1
    assert "not finished; to run it again: python -m sports_lightning.train" in result.stderr
    assert not (tmp_path / "stopped/1/metrics.json").exists()


def test_a_job_that_another_process_runs_is_named_or_counts_as_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep/0").mkdir(parents=True)
    sweep = Sweep("evaluate")
    with locked_by_another_process(tmp_path / "sweep/0"):  # as by a job whose sweep was killed
        sweep.run(tmp_path / "sweep/0", tmp_path / "sweep", ["ckpt_path=run"], {})
        assert sweep.print_summary()
    assert "job 0: another process is running it; to run it again:" in capsys.readouterr().err
    (tmp_path / "sweep/0/metrics.json").write_text("{}")
    assert not sweep.print_summary(), "that process has finished it"
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_the_printed_command_runs_with_custom_configs_too(few: Path, tmp_path: Path) -> None:
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/small.yaml").write_text("defaults: [scratch_cnn]\n")
    overrides = [*FAST, *QUICK, f"data.root={few}", "logger=csv", "model=small", "test=false"]
    with jobs_in_this_process():
        printed = run_command("train", "--config-dir=mine", "-m", *overrides, "hydra.sweep.dir=sweep").stdout
    (best,) = [line for line in printed.splitlines() if line.startswith("best accuracy on val, as a single run: ")]
    python, _, module, *arguments = shlex.split(best.partition(": ")[2])
    assert (python, module) == ("python", "sports_lightning.train")
    printed = run_command("train", *arguments).stdout
    provenance = json.loads(Path(printed.splitlines()[-1], "run.json").read_text())
    assert provenance["command"] == shlex.join(["python", "-m", module, *arguments])


@pytest.mark.slow
def test_ctrl_c_ends_the_job_and_lists_the_remaining_ones(few: Path, tmp_path: Path) -> None:
    overrides = [*FAST, f"data.root={few}", "logger=csv", "trainer.max_epochs=500", "seed=0,1"]
    process = Process("train", "-m", *overrides, "hydra.sweep.dir=sweep")
    process.wait_for(tmp_path / "sweep/0/checkpoints/last.ckpt")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    result = process.result()
    assert result.status == 130
    assert f"to run it again: python -m sports_lightning.train resume={tmp_path}/sweep/0" in result.stderr
    assert f"to run all unfinished jobs: python -m sports_lightning.train resume={tmp_path}/sweep" in result.stderr
    assert not (tmp_path / "sweep/1/metrics.csv").exists()
    assert (tmp_path / "sweep/0/metrics.csv").exists()
