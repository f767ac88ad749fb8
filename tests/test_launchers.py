"""Jobs that something else starts: a cluster's scheduler by submitit, the processes of several machines by torchrun."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import FAST, command, wait_for
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


def test_torchrun_starts_the_processes_of_one_run(sample: Path, tmp_path: Path) -> None:
    arguments = [*QUICK, f"data.root={sample}", "trainer.max_epochs=1", "trainer.devices=2"]
    command("train", *arguments, "hydra.run.dir=ours", cwd=tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run([*torchrun, "sports_lightning.train", *arguments], cwd=tmp_path, check=True, capture_output=True)
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert outcome(folder) == outcome(tmp_path / "ours")
