"""A run folder that was moved still resumes, and the error for a finished one explains how to train it further."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from sports_lightning.config.path_values import quote_paths
from sports_lightning.runs.changed_settings import read_changes, store_changes, with_changes
from sports_lightning.runs.checkpoint_files import AtomicCheckpointIO, save_checkpoint
from sports_lightning.runs.resume import continue_command, load_config, run_settings
from sports_lightning.storage.files import sync_to_disk

QUICK = [*FAST, "logger=csv", "data.num_workers=0", "data.audit=false", "test=false", "trainer.limit_train_batches=2"]


def test_changed_settings_are_stored_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    stored = {"data": {"root": "images", "num_workers": 2}, "inference": {"batch_size": 32}}
    OmegaConf.save(OmegaConf.create(stored), tmp_path / "run/.hydra/config.yaml")
    before = run_settings(tmp_path / "run", OmegaConf.create())
    monkeypatch.setenv("HOME", "/home/me")
    for arguments in (["inference.batch_size=8", "data.root=~/my [images], 2"], ["data.root='a b'", "data.cache=null"]):
        resumed = OmegaConf.create(with_changes(load_config(tmp_path / "run"), read_changes(quote_paths(arguments))))
        store_changes(tmp_path / "run", stored, resumed)
    found = load_config(tmp_path / "run")
    assert found["inference"]["batch_size"] == 8
    assert found["data"].items() >= {"root": f"{tmp_path}/a b", "num_workers": 2, "cache": None}.items()
    assert run_settings(tmp_path / "run", OmegaConf.create()) == before, "it is the same run"
    command = continue_command(tmp_path / "run", ["trainer.max_epochs=9"])
    assert shlex.quote(f"data.root={tmp_path}/a b") in command
    assert " data.cache=null" in command
    assert read_changes(quote_paths(["data.root=~/my [images], 2"])) == {"data": {"root": "/home/me/my [images], 2"}}


@pytest.mark.parametrize("name", ["", "train.log"])
def test_a_read_only_run_is_resumed_as_a_copy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").touch()
    (tmp_path / "train.log").touch()
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / name)  # a superuser may write anywhere
    assert_error_line(try_command("train", f"resume={tmp_path}"), "is read-only: copy the folder", "chmod -R u+w")


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes only files that are open for writing")
def test_files_that_may_only_be_read_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").touch(0o444)
    modes: set[int] = set()
    os_open = os.open
    monkeypatch.setattr("os.open", lambda path, mode: [os_open(path, mode), modes.add(mode)][0])
    sync_to_disk(tmp_path / ".hydra")
    assert modes == {os.O_RDONLY}, "the files of a read-only run may have been copied with their modes"


def test_only_an_unfinished_run_takes_changed_settings(tmp_path: Path) -> None:
    (tmp_path / "run/.hydra").mkdir(parents=True)
    for name in ("config.yaml", "overrides.yaml"):
        (tmp_path / "run/.hydra" / name).write_text("{}")
    (tmp_path / "run/metrics.json").write_text("{}")
    result = try_command("train", "resume=run", "inference.flip_tta=true")
    assert_error_line(result, "holds a finished run", "leave out inference.flip_tta")
    assert not (tmp_path / "run/.hydra/resumed.yaml").exists()


def test_a_new_run_forgets_what_an_earlier_one_in_its_folder_changed(tmp_path: Path) -> None:
    (tmp_path / "run/.hydra").mkdir(parents=True)
    (tmp_path / "run/.hydra/resumed.yaml").write_text("inference: {flip_tta: true}")
    (tmp_path / "run/notes.txt").touch()  # otherwise the folder is removed when the run fails
    result = try_command("train", "data=folder", "data.root=nowhere", "logger=csv", "hydra.run.dir=run")
    assert_error_line(result, "nowhere")
    assert (tmp_path / "run/.hydra/config.yaml").exists()
    assert not (tmp_path / "run/.hydra/resumed.yaml").exists()


@pytest.mark.slow
def test_a_moved_run_resumes_with_its_own_best_checkpoint(few: Path, tmp_path: Path) -> None:
    shutil.copytree(few, tmp_path / "data before")
    arguments = [*QUICK[1:], "data=folder", "data.root='data before'"]
    run_command("train", *arguments, "trainer.max_epochs=2", "trainer.precision=32-true", "hydra.run.dir=before")
    expected = (tmp_path / "before/metrics.json").read_bytes()
    (tmp_path / "before/metrics.json").unlink()  # as if it had been interrupted before its results were written
    shutil.move(tmp_path / "before", tmp_path / "René (2)")
    shutil.move(tmp_path / "data before", tmp_path / "data, [now]")
    assert_error_line(try_command("train", f"resume={tmp_path}/René (2)"), "set data.root=FOLDER")
    shutil.copytree(tmp_path / "data, [now]", tmp_path / "fewer")
    shutil.rmtree(next((tmp_path / "fewer/valid").iterdir()))
    resumed = try_command("train", f"resume={tmp_path}/René (2)", "data.root=fewer")
    assert_error_line(resumed, "data.val.count was")
    assert not (tmp_path / "René (2)/.hydra/resumed.yaml").exists(), "a refused change is not stored"
    run_command("train", f"resume={tmp_path}/René (2)", "data.root=data, [now]", "inference.num_workers=0")
    assert (tmp_path / "René (2)/metrics.json").read_bytes() == expected
    assert load_config(tmp_path / "René (2)")["data"]["root"] == f"{tmp_path}/data, [now]"
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
