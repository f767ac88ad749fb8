"""Failures during a run: non-finite losses, memory, disk space. They are reported, and no valid file is lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from commands import call_as_command, jobs_in_this_process, run_command, try_command
from conftest import FAST, assert_error_line, composed
from processes import Process
from sports_lightning.errors import UserError
from sports_lightning.split.dataset import open_dataset
from sports_lightning.train.batch_size import check_disk_space, choose_batch_size, explain_batch_errors
from sports_lightning.train.build import build
from sports_lightning.train.module import ClassifierModule

QUICK = [*FAST, "logger=csv", "data.num_workers=0", "data.audit=false", "test=false", "trainer.limit_train_batches=3"]


class BrokenInBatch(nn.Module):
    """Cross-entropy that is NaN in one batch, on all devices or on one."""

    def __init__(self, batch: int, device: str | None = None) -> None:
        super().__init__()
        is_broken = device in (None, os.environ.get("LOCAL_RANK", "0"))
        self.batch, self.calls = batch if is_broken else 0, 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(logits, labels) * (float("nan") if self.calls == self.batch else 1)


BROKEN = ["loss.function._target_=test_failures.BrokenInBatch", "~loss.function.label_smoothing"]


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_images(few: Path, tmp_path: Path) -> None:
    arguments = [*BROKEN, "+loss.function.batch=5", "trainer.max_epochs=2"]
    result = try_command("train", *QUICK, f"data.root={few}", *arguments, "hydra.run.dir=run")
    where = "the loss is infinite or not a number in epoch 1, batch 1"
    assert_error_line(result, where, "callbacks.finite_loss.skip=true")
    where, *files = (tmp_path / "run/not_finite.txt").read_text().splitlines()
    assert where == "epoch 1, batch 1"
    assert len(files) == 16
    assert all(Path(file).is_file() for file in files)
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3, "the last finite one"
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


@pytest.mark.slow
def test_a_bad_loss_on_one_of_two_devices_stops_both_and_names_its_images(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    arguments = [*BROKEN, "+loss.function.batch=2", "+loss.function.device='1'", "trainer.devices=2"]
    result = Process("train", *QUICK, f"data.root={few}", *arguments, "hydra.run.dir=run").result()
    assert_error_line(result, "infinite or not a number in epoch 0, batch 1")
    _, *files = (tmp_path / "run/not_finite.txt").read_text().splitlines()
    assert len(files) == 8, "half of the batch"


@pytest.mark.slow
@pytest.mark.parametrize(("accumulated", "batches"), [(1, 3), (2, 4)])
def test_such_a_step_is_skipped_on_request(few: Path, tmp_path: Path, accumulated: int, batches: int) -> None:
    arguments = [*BROKEN, "+loss.function.batch=3", "trainer.max_epochs=1", "callbacks.finite_loss.skip=true"]
    settings = [*QUICK, f"data.root={few}", "scheduler=constant", f"trainer.accumulate_grad_batches={accumulated}"]
    arguments.append(f"trainer.limit_train_batches={batches}")
    run_command("train", *settings, *arguments, "hydra.run.dir=skipped")
    assert (
        "skipped: the loss is infinite or not a number in epoch 0, batch 2"
        in (tmp_path / "skipped/train.log").read_text()
    )
    shorter = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "scheduler.warmup_epochs=0"]
    run_command("train", *settings, *shorter, "hydra.run.dir=shorter")
    first, second = (
        torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("skipped", "shorter")
    )
    # The batch that is accumulated with the bad one updates BatchNorm's statistics.
    names = [name for name in first if accumulated == 1 or not ("running" in name or "num_batches" in name)]
    assert all(torch.equal(first[name], second[name]) for name in names), "no trace of the last step"


def test_non_finite_weights_do_not_replace_a_good_checkpoint(few: Path, tmp_path: Path) -> None:
    arguments = ["optimizer=sgd", "optimizer.lr=1e38", "scheduler=constant", "trainer.max_epochs=3"]
    result = try_command("train", *QUICK, f"data.root={few}", *arguments, "hydra.run.dir=run")
    assert_error_line(result, "optimizer.lr")
    for checkpoint in (tmp_path / "run").glob("checkpoints/*.ckpt"):
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_out_of_memory_suggests_a_batch_size() -> None:
    with (
        pytest.raises(UserError, match=r"data.batch_size=64: try data.batch_size=32, or auto"),
        explain_batch_errors(64),
    ):
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="shapes"), explain_batch_errors(64):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_auto_without_a_gpu_is_a_multiple_of_the_processes() -> None:
    module: Any = None  # not tried
    assert choose_batch_size("auto", module, "32-true", "cpu", 1) == 32
    assert choose_batch_size("auto", module, "32-true", "cpu", 3) == 30
    with pytest.raises(UserError, match=r"data.batch_size=32 .* set data.batch_size=30"):
        choose_batch_size(32, module, "32-true", "cpu", 3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB; skips if the tests may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("requires permission to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_little_disk_space_for_checkpoints_is_refused(few: Path, small_disk: Path, tmp_path: Path) -> None:
    arguments = [*QUICK, f"data.root={few}", f"hydra.run.dir={small_disk}/run"]
    result = try_command("train", *arguments)
    assert result.status == 1
    assert "not enough room" in result.stderr
    assert "hydra.run.dir=FOLDER" in result.stderr
    assert not (small_disk / "run").exists(), "nothing half-written"


@pytest.mark.slow
def test_a_job_without_disk_space_is_refused_and_the_others_are_unaffected(
    few: Path, small_disk: Path, tmp_path: Path
) -> None:
    jobs = ["model=timm", "model.name=mobilenetv3_small_050,resnet18", "model.pretrained=false", "trainer.max_epochs=1"]
    arguments = [*QUICK, f"data.root={few}", *jobs, f"hydra.sweep.dir={small_disk}/sweep"]
    with jobs_in_this_process():
        result = try_command("train", "-m", *arguments)
    assert result.status == 1
    (why,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "not enough room" in why
    assert "1 of 2 jobs did not finish" in result.stderr
    assert (small_disk / "sweep/0/metrics.json").exists()
    assert not (small_disk / "sweep/1").exists(), "nothing half-written"


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The short form of benchmarks/full_disk.py: `small_disk` shows that it may mount one."""
    import full_disk

    def start(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        with patch.object(Path, "open", Path.open), patch.object(sys, "argv", ["full_disk"]):  # both are replaced
            result = call_as_command(lambda: full_disk.main(arguments), cwd)
        return subprocess.CompletedProcess(arguments, result.status, result.stdout, result.stderr)

    status = full_disk.main(["--first", "6", "--every", "14"], start)
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert printed.count("nothing lost") >= 2
    assert "write 20, " in printed, "a late one"


def _module(few: Path, tmp_path: Path, *settings: str) -> ClassifierModule:
    cfg = composed(tmp_path, *FAST, f"data.root={few}", "model=timm", "model.name=test_resnet", *settings)
    return build(cfg, open_dataset(cfg.data, ["train", "val"]))[0]


def test_a_disk_that_does_not_report_its_size_is_used(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _module(few, tmp_path, "model.pretrained=false")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=0))
    check_disk_space(module, tmp_path / "run", False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=9, used=9, free=0))
    with pytest.raises(UserError, match="not enough room"):
        check_disk_space(module, tmp_path / "run", False)


def test_room_is_needed_for_everything_that_a_later_epoch_trains(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, gradual = (
        _module(few, tmp_path, "model.pretrained=false", f"finetune={name}") for name in ("head", "gradual")
    )
    weights = sum(tensor.nbytes for tensor in head.state_dict().values())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=9e9, used=0, free=4 * weights))
    check_disk_space(head, tmp_path / "run", False)
    with pytest.raises(UserError, match="not enough room"):
        check_disk_space(gradual, tmp_path / "run", False)
