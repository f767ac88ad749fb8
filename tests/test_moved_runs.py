"""A run folder that was moved still resumes, and the error for a finished one explains how to train it further."""

import shutil
from pathlib import Path

import pytest
import torch

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from sports_lightning.runs.checkpoint_files import AtomicCheckpointIO, save_checkpoint

QUICK = [*FAST, "logger=csv", "data.num_workers=0", "data.audit=false", "test=false", "trainer.limit_train_batches=2"]


@pytest.mark.slow
def test_a_moved_run_resumes_with_its_own_best_checkpoint(few: Path, tmp_path: Path) -> None:
    run_command("train", *QUICK, f"data.root={few}", "trainer.max_epochs=2", "hydra.run.dir=before")
    expected = (tmp_path / "before/metrics.json").read_bytes()
    (tmp_path / "before/metrics.json").unlink()  # as if it had been interrupted before its results were written
    shutil.move(tmp_path / "before", tmp_path / "René (2)")
    run_command("train", f"resume={tmp_path}/René (2)")
    assert (tmp_path / "René (2)/metrics.json").read_bytes() == expected
    assert not (tmp_path / "before").exists()
    state = torch.load(tmp_path / "René (2)/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert any("dirpath" in callback for callback in state.values() if isinstance(callback, dict))
    assert_error_line(
        try_command("train", f"resume={tmp_path}/René (2)"), "holds a finished run", "checkpoints/best.ckpt"
    )


def test_only_the_paths_in_a_moved_run_folder_are_replaced(tmp_path: Path) -> None:
    states = {
        "LastCheckpoint": {"folder": "/before/checkpoints"},
        "best": {"dirpath": "/before/checkpoints", "best_model_path": "/before/checkpoints/best.ckpt"},
        "elsewhere": {"dirpath": "/models", "best_k_models": {"/models/a.ckpt": 1.0}},
    }
    save_checkpoint({"callbacks": states}, tmp_path / "last.ckpt")
    found = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")["callbacks"]
    assert found["best"] == {"dirpath": str(tmp_path), "best_model_path": f"{tmp_path}/best.ckpt"}
    assert found["elsewhere"] == states["elsewhere"]
