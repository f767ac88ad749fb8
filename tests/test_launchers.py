"""Jobs that something else starts: a cluster's scheduler by submitit, the processes of several machines by torchrun."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from commands import Command, command
from conftest import FAST, InProcess, assert_error_line, wait_for
from outcome import outcome

QUICK = [*FAST, "logger=csv", "data.num_workers=0", "data.audit=false", "trainer.limit_train_batches=4"]


@pytest.fixture(scope="module")
def two_processes(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, bytes]]:
    """The arguments of a run of two processes that Lightning starts, and what comes out of it."""
    cwd = tmp_path_factory.mktemp("two_processes")
    arguments = [*QUICK, f"data.root={few}", "trainer.max_epochs=1", "trainer.devices=2"]
    command("train", *arguments, "hydra.run.dir=run", cwd=cwd)
    return arguments, outcome(cwd / "run")


def test_a_job_that_a_scheduler_takes_away_goes_on_when_it_is_started_again(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    arguments = [*QUICK, f"data.root={few}", "trainer.max_epochs=4"]
    command("train", *arguments, "hydra.run.dir=alone", cwd=tmp_path)
    sweep = ["-m", *arguments, "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    process = Command("train", *sweep, cwd=tmp_path)
    wait_for(tmp_path / "sweep/0/checkpoints/last.ckpt", process)
    found = subprocess.run(["pgrep", "-f", f"submitit.core._submit .*{tmp_path}"], capture_output=True, text=True)
    (number,) = found.stdout.split()
    os.kill(int(number), signal.SIGUSR2)  # what submitit has SLURM send ahead of a pre-emption
    printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    log = "".join(path.read_text() for path in tmp_path.glob("sweep/.submitit/*/*_log.*"))
    assert "interrupted by SIGTERM; to go on" in log
    assert "Requeued job" in log
    assert outcome(tmp_path / "sweep/0") == outcome(tmp_path / "alone")
    assert printed.splitlines()[-1] == str(tmp_path / "sweep"), "with the same summary as any sweep"


def test_several_tasks_a_job_are_refused(in_process: InProcess) -> None:
    pytest.importorskip("submitit")
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"]
    assert_error_line(in_process("train", "-m", *QUICK, *launcher), "hydra.launcher starts one task a job", "srun")


def test_processes_give_the_same_run_whatever_starts_them(
    two_processes: tuple[list[str], dict[str, bytes]], tmp_path: Path
) -> None:
    arguments, expected = two_processes
    spawned = command("train", *arguments, "trainer.strategy=ddp_spawn", "hydra.run.dir=spawned", cwd=tmp_path)
    assert "trainer.strategy=ddp_spawn: its processes are started as for ddp" in spawned.stdout
    assert outcome(tmp_path / "spawned") == expected
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run([*torchrun, "sports_lightning.train", *arguments], cwd=tmp_path, check=True, capture_output=True)
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert outcome(folder) == expected


def start_tasks(module: str, arguments: list[str], cwd: Path) -> list[Command]:
    """Two tasks, with the variables that SLURM gives those of srun; in a real SLURM: benchmarks/slurm.py."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}
    job |= {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_NUM_TASKS": "2"}
    tasks = []
    for rank in "01":
        with patch.dict(os.environ, {**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}):
            tasks.append(Command(module, *arguments, cwd=cwd))
    return tasks


def test_tasks_of_srun_are_one_run_and_so_are_the_processes_that_one_task_starts(
    two_processes: tuple[list[str], dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, expected = two_processes
    tasks = start_tasks("train", arguments, tmp_path)
    printed = [task.communicate(timeout=200)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], printed
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert printed[0].splitlines()[-1] == str(folder)
    assert str(folder) not in printed[1], "the second task has nothing to say"
    assert outcome(folder) == expected
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    command("train", *arguments, "hydra.run.dir=one_task", cwd=tmp_path)
    assert outcome(tmp_path / "one_task") == expected


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "model=nope"], 1, ["error: In 'train': Could not find 'model/nope'", ""]),
        (["train", "--cfg", "job"], 0, ["data:", ""]),
        (["evaluate", "ckpt_path=none"], 1, ["error: evaluate is one process's work"] * 2),
    ],
)
def test_no_task_waits_for_a_run_that_does_not_begin(
    arguments: list[str], status: int, said: list[str], tmp_path: Path
) -> None:
    tasks = start_tasks(arguments[0], arguments[1:], tmp_path)
    for task, beginning in zip(tasks, said, strict=True):
        printed = "".join(task.communicate(timeout=60))
        assert task.returncode == status
        assert printed.startswith(beginning) if beginning else not printed


def test_a_network_that_is_spread_over_two_processes_learns_as_two_copies_do(few: Path, tmp_path: Path) -> None:
    """ResNet-18 has batch normalisation, and layers that are gathered one by one."""
    model = ["model=timm", "model.name=resnet18", "model.pretrained=false", "optimizer=sgd"]
    arguments = [*QUICK, f"data.root={few}", *model, "test=false", "trainer.max_epochs=1"]
    runs = {
        "before": ["optimizer.lr=1e-30", "scheduler=constant"],
        "copies": ["trainer.devices=2", "trainer.strategy=ddp"],
        "spread": ["trainer.devices=2", "trainer.strategy=fsdp"],
    }
    for run, more in runs.items():
        command("train", *arguments, *more, f"hydra.run.dir={run}", cwd=tmp_path)
    before, copies, spread = (
        torch.load(tmp_path / run / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in runs
    )
    assert copies.keys() == spread.keys(), "a checkpoint says nothing of how many devices there were"
    for key in [key for key, value in copies.items() if value.ndim > 1]:
        learned, apart = (copies[key] - before[key]).norm(), (spread[key] - copies[key]).norm()
        assert learned > 0
        assert apart < 0.01 * learned, key


def test_a_network_of_nested_lists_is_spread_too(few: Path, tmp_path: Path) -> None:
    twins = ["model=timm", "model.name=twins_svt_small", "model.pretrained=false", "data.batch_size=8", "test=false"]
    arguments = [*QUICK, f"data.root={few}", *twins, "trainer.devices=2", "trainer.strategy=fsdp"]
    command("train", *arguments, "trainer.max_epochs=1", "trainer.limit_train_batches=1", cwd=tmp_path)
