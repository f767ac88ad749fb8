"""Jobs that are started by a cluster's scheduler (submitit), torchrun or srun."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from outcome import outcome
from processes import Process, forking_python, run_process, torchrun
from sports_lightning.errors import UserError
from sports_lightning.train.trainer import count_processes

pytestmark = pytest.mark.slow

QUICK = [
    *FAST,
    "logger=csv",
    "data.num_workers=0",
    "data.audit=false",
    "trainer.limit_train_batches=4",
]


@pytest.fixture(scope="module")
def two_processes(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, bytes]]:
    """The arguments of a run of two processes that Lightning starts, and its outcome."""
    cwd = tmp_path_factory.mktemp("two_processes")
    arguments = [*QUICK, f"data.root={few}", "trainer.max_epochs=1", "trainer.devices=2"]
    run_process("train", *arguments, "hydra.run.dir=run", cwd=cwd)
    return arguments, outcome(cwd / "run")


def test_a_job_that_a_scheduler_preempts_resumes_when_it_is_requeued(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    arguments = [*QUICK, f"data.root={few}", "trainer.max_epochs=4"]
    run_command("train", *arguments, "hydra.run.dir=alone")
    sweep = ["-m", *arguments, "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    process = Process("train", *sweep, FORKING_PYTHON=forking_python())
    process.wait_for(tmp_path / "sweep/0/checkpoints/last.ckpt")
    found = subprocess.run(["pgrep", "-f", f"submitit.core._submit .*{tmp_path}"], capture_output=True, text=True)
    (number,) = found.stdout.split()
    os.kill(int(number), signal.SIGUSR2)  # the signal that submitit requests from SLURM before a preemption
    result = process.result()
    assert result.status == 0, result.stderr
    log = "".join(path.read_text() for path in tmp_path.glob("sweep/.submitit/*/*_log.*"))
    assert "interrupted by SIGTERM; to resume" in log
    assert "Requeued job" in log
    assert outcome(tmp_path / "sweep/0") == outcome(tmp_path / "alone")
    assert result.last_line == str(tmp_path / "sweep"), "the same summary as for any sweep"


def test_several_tasks_per_job_are_refused() -> None:
    pytest.importorskip("submitit")
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"]
    assert_error_line(try_command("train", "-m", *QUICK, *launcher), "hydra.launcher starts one task per job", "srun")


def test_a_run_does_not_depend_on_the_launcher(
    two_processes: tuple[list[str], dict[str, bytes]], tmp_path: Path
) -> None:
    arguments, expected = two_processes
    spawned = run_process("train", *arguments, "trainer.strategy=ddp_spawn", "hydra.run.dir=spawned")
    assert "trainer.strategy=ddp_spawn: its processes are started as for ddp" in spawned.stdout
    assert outcome(tmp_path / "spawned") == expected
    subprocess.run([*torchrun(), "sports_lightning.train", *arguments], check=True, capture_output=True)
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert outcome(folder) == expected


def start_tasks(name: str, arguments: list[str]) -> list[Process]:
    """Two tasks, with the variables that SLURM gives those of srun; in a real SLURM: benchmarks/slurm.py."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}
    job |= {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_NUM_TASKS": "2"}
    return [Process(name, *arguments, **job, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in "01"]


def test_tasks_of_srun_and_processes_of_one_task_are_one_run(
    two_processes: tuple[list[str], dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, expected = two_processes
    results = [task.result() for task in start_tasks("train", arguments)]
    assert [result.status for result in results] == [0, 0], results
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert results[0].last_line == str(folder)
    assert str(folder) not in results[1].stdout, "the second task prints no result"
    assert outcome(folder) == expected
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    run_process("train", *arguments, "hydra.run.dir=one_task")
    assert outcome(tmp_path / "one_task") == expected


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "model=nope"], 1, ["error: there is no config model/nope", ""]),
        (["train", "--cfg", "job"], 0, ["data:", ""]),
        (["evaluate", "ckpt_path=none"], 1, ["error: evaluate runs in one process"] * 2),
    ],
)
def test_no_task_waits_for_a_run_that_does_not_start(arguments: list[str], status: int, said: list[str]) -> None:
    tasks = start_tasks(arguments[0], arguments[1:])
    for task, beginning in zip(tasks, said, strict=True):
        result = task.result()
        printed = result.stdout + result.stderr
        assert result.status == status
        assert printed.startswith(beginning) if beginning else not printed, printed


def test_a_sharded_network_trains_like_two_replicas(few: Path, tmp_path: Path) -> None:
    """ResNet-18 has batch normalization, and layers that are gathered one by one."""
    model = ["model=timm", "model.name=resnet18", "model.pretrained=false", "optimizer=sgd"]
    arguments = [*QUICK, f"data.root={few}", *model, "test=false", "trainer.max_epochs=1"]
    runs = {
        "before": ["optimizer.lr=1e-30", "scheduler=constant"],
        "copies": ["trainer.devices=2", "trainer.strategy=ddp"],
        "spread": ["trainer.devices=2", "trainer.strategy=fsdp"],
    }
    for run, more in runs.items():
        start = run_process if "trainer.devices=2" in more else run_command
        start("train", *arguments, *more, f"hydra.run.dir={run}")
    before, copies, spread = (
        torch.load(tmp_path / run / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in runs
    )
    assert copies.keys() == spread.keys(), "a checkpoint does not depend on the number of devices"
    for key in [key for key, value in copies.items() if value.ndim > 1]:
        learned, apart = (copies[key] - before[key]).norm(), (spread[key] - copies[key]).norm()
        assert learned > 0
        assert apart < 0.01 * learned, key


def test_a_network_of_nested_lists_is_sharded_too(few: Path, tmp_path: Path) -> None:
    twins = ["model=timm", "model.name=twins_svt_small", "model.pretrained=false", "data.batch_size=8", "test=false"]
    arguments = [*QUICK, f"data.root={few}", *twins, "trainer.devices=2", "trainer.strategy=fsdp"]
    run_process("train", *arguments, "trainer.max_epochs=1", "trainer.limit_train_batches=1")


@pytest.mark.parametrize(("world_size", "devices", "num_nodes"), [(2, 1, 1), (2, "auto", 1), (1, 2, 1), (4, 2, 1)])
def test_the_launcher_starts_as_many_processes_as_the_trainer_has_devices(
    world_size: int, devices: int | str, num_nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OmegaConf.create({"accelerator": "cpu", "devices": devices, "num_nodes": num_nodes})
    processes = count_processes(settings)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    with pytest.raises(UserError, match=f"has started {world_size} processes, but trainer.devices={devices}"):
        count_processes(settings)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert count_processes(settings) == processes
