"""Jobs that something else starts: a cluster's scheduler by submitit, the processes of several machines by torchrun."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import FAST, InProcess, assert_error_line, command, wait_for
from outcome import outcome

QUICK = [*FAST, "logger=csv", "data.num_workers=0", "data.audit=false", "trainer.limit_train_batches=4"]


def test_a_job_that_a_scheduler_takes_away_goes_on_when_it_is_started_again(sample: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    arguments = [*QUICK, f"data.root={sample}", "trainer.max_epochs=4"]
    command("train", *arguments, "hydra.run.dir=alone", cwd=tmp_path)
    sweep = ["-m", *arguments, "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sports_lightning.train", *sweep],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
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


def test_processes_give_the_same_run_whatever_starts_them(sample: Path, tmp_path: Path) -> None:
    arguments = [*QUICK, f"data.root={sample}", "trainer.max_epochs=1", "trainer.devices=2"]
    command("train", *arguments, "hydra.run.dir=ours", cwd=tmp_path)
    spawned = command("train", *arguments, "trainer.strategy=ddp_spawn", "hydra.run.dir=spawned", cwd=tmp_path)
    assert "trainer.strategy=ddp_spawn: its processes are started as for ddp" in spawned.stdout
    assert outcome(tmp_path / "spawned") == outcome(tmp_path / "ours")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run([*torchrun, "sports_lightning.train", *arguments], cwd=tmp_path, check=True, capture_output=True)
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert outcome(folder) == outcome(tmp_path / "ours")


def test_tasks_of_srun_are_one_run(sample: Path, tmp_path: Path) -> None:
    """With the variables that SLURM gives its tasks; in a real SLURM: benchmarks/slurm.py."""
    arguments = [*QUICK, f"data.root={sample}", "trainer.max_epochs=1", "trainer.devices=2"]
    command("train", *arguments, "hydra.run.dir=ours", cwd=tmp_path)
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "sports_lightning.train", *arguments], cwd=tmp_path,
            env={**os.environ, **job, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    printed = [task.communicate(timeout=200)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], printed
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert printed[0].splitlines()[-1] == str(folder)
    assert str(folder) not in printed[1], "the second task has nothing to say"
    assert outcome(folder) == outcome(tmp_path / "ours")


def test_a_network_that_is_spread_over_two_processes_learns_as_two_copies_do(sample: Path, tmp_path: Path) -> None:
    """With batch normalisation, and with layers that are gathered one by one: vit_small's blocks have 1.8 million."""
    vit = ["model=timm", "model.name=vit_small_patch16_224", "model.pretrained=false", "+model.arguments.depth=2"]
    for name, model in (("scratch_cnn", ["model=scratch_cnn"]), ("vit", vit)):
        arguments = [*QUICK, f"data.root={sample}", *model, "test=false", "trainer.devices=2", "trainer.max_epochs=1"]
        arguments += ["trainer.gradient_clip_val=1.0", "optimizer=sgd", "data.batch_size=16"]
        for strategy in ("ddp", "fsdp"):
            folder = f"{name}_{strategy}"
            command("train", *arguments, f"trainer.strategy={strategy}", f"hydra.run.dir={folder}", cwd=tmp_path)
        copies, spread = (
            torch.load(tmp_path / f"{name}_{strategy}/checkpoints/best.ckpt", weights_only=True)["state_dict"]
            for strategy in ("ddp", "fsdp")
        )
        assert copies.keys() == spread.keys(), "a checkpoint says nothing of how many devices there were"
        torch.testing.assert_close(spread, copies, rtol=1e-3, atol=1e-5)
