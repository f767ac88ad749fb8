"""Provenance suffices to reproduce a run; differences are explained."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from commands import jobs_in_this_process, run_command, try_command
from conftest import FAST, assert_error_line
from processes import Process, Result, run_process
from sports_lightning.errors import UserError
from sports_lightning.reproduce.reproduction import run_again
from sports_lightning.runs import provenance as provenance_module


@pytest.fixture
def run(few: Path, tmp_path: Path) -> Path:
    """A short run on a copy of some images, started from a separate folder, with a relative data root."""
    shutil.copytree(few, tmp_path / "there/data")
    overrides = ["data=folder", "data.root=data", "trainer.max_epochs=2", "trainer.limit_train_batches=4"]
    settings = [*FAST[1:], *overrides, "callbacks=[default,ema]", "augment.mixup=0.2", "logger=csv"]
    run_command("train", *settings, "hydra.run.dir=run", cwd=tmp_path / "there")
    return tmp_path / "there/run"


def reproduce(run: Path, *arguments: str) -> Result:
    with jobs_in_this_process():
        return try_command("reproduce", f"run={run}", *arguments, cwd=run.parents[1])


@pytest.mark.slow
def test_a_run_is_reproduced_or_the_causes_are_named(run: Path) -> None:
    same = reproduce(run)
    assert same.status == 0, same.stderr
    assert "identical to the last digit" in same.stdout

    seed = reproduce(run, "+changes.seed=1")
    assert seed.status == 1
    assert "config.seed 0 → 1" in seed.stderr
    assert "weights" in seed.stderr or "more" in seed.stderr

    image = sorted((run.parent / "data/valid/archery").iterdir())[3]
    Image.new("RGB", (128, 128), "red").save(image)
    changed = reproduce(run)
    assert changed.status == 1
    assert f"1 images (valid/archery/{image.name})" in changed.stderr
    assert changed.stderr.strip().count("\n") == 0, "one line"


@pytest.mark.slow
def test_a_run_of_two_processes_is_reproduced(few: Path, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.devices=2", "trainer.accelerator=cpu"]
    run_process("train", *FAST, f"data.root={few}", *short, "logger=csv", "hydra.run.dir=a/run")
    again = Process("reproduce", "run=a/run").result()
    assert again.status == 0, again.stderr
    assert "identical to the last digit" in again.stdout


@pytest.mark.slow
def test_odd_files_that_are_not_in_git_hide_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/here.py").write_text("x = 1")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "src/größe.py").write_text("y = 2")
    (tmp_path / "src/broken.py").symlink_to("nowhere")
    subprocess.run(["git", "init", "-q", str(tmp_path / "src/nested")], check=True)
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "src/here.py"))
    state = provenance_module._git_state()
    assert len(state["commit"]) == 40
    assert "größe.py\ny = 2" in state["diff"]
    assert "broken.py\n(No such file" in state["diff"]


def test_run_json_contains_the_provenance(run: Path) -> None:
    provenance = json.loads((run / "run.json").read_text())
    assert provenance["seed"] == 0
    assert provenance["packages"]["torch"]
    assert provenance["data"]["train"]["count"] == 240
    assert provenance["machine"]["threads"] >= 1
    assert provenance["precision"]["precision"]
    assert provenance["seconds"] > 0
    assert provenance["command"].startswith("python -m sports_lightning.train model.image_size=64")


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [([], "run is not set"), (["run=nowhere"], "nowhere"), (["+changes.lerning_rate=1"], "lerning_rate")],
)
def test_bad_input(arguments: list[str], culprit: str, trained: tuple[Path, str], tmp_path: Path) -> None:
    given = arguments if not arguments or "run=" in arguments[0] else [f"run={trained[0]}", *arguments]
    failed = try_command("reproduce", *given)
    assert_error_line(failed, culprit)


@pytest.mark.parametrize("content", ["hydra: [", "", "hydra: {job: {config_name: evaluate}}"])
def test_a_damaged_or_foreign_hydra_yaml_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/hydra.yaml").write_text(content)
    with pytest.raises(UserError, match=r"can't be read|not of train"):
        run_again(tmp_path, tmp_path / "new", OmegaConf.create({}), trust=True)
