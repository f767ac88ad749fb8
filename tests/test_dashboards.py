"""What a dashboard gets of a run, read back from what its client has written; and sweeps that W&B runs."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from conftest import FAST, command
from sports_lightning import CONF_DIR
from wandb_file import read_offline_run

QUICK = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.num_workers=0", "data.audit=false"]


def test_wandb_has_the_config_the_commit_the_figures_and_the_pictures(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    run = read_offline_run(next((folder / "wandb").glob("offline-run-*")))
    config = yaml.safe_load((folder / ".hydra/config.yaml").read_text())
    assert run.config["optimizer"]["lr"] == config["optimizer"]["lr"]
    assert run.config["trainer"]["default_root_dir"] == str(folder), "the resolved config"
    facts = json.loads((folder / "run.json").read_text())
    assert run.config["git"] == {name: facts["git"][name] for name in ("commit", "dirty")}
    figures = json.loads((folder / "metrics.json").read_text())
    for split, values in figures.items():
        assert run.summary[f"best/{split}/acc"] == values["acc"]
        assert run.summary[f"best/{split}/loss"] == values["loss"]
    assert (run.summarised_by["val/acc"], run.summarised_by["val/loss"]) == ("max", "min")
    assert run.summary["flops"] == facts["flops"] > 1e6
    assert run.summary["parameters"] == facts["parameters"]
    assert run.job_type == "train"
    assert run.group == "", "it is of no sweep"
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/predictions_*.json")
    rows = json.loads(table.read_text())["data"]
    right = [row[-1] for row in rows]
    assert right == sorted(right), "mistakes first"
    sure = [row[-2] for row in rows if not row[-1]]
    assert sure == sorted(sure, reverse=True), "the most confident ahead"
    assert "run_table" in run.artifacts


def test_the_checkpoint_is_an_artifact_if_asked_for(sample: Path, tmp_path: Path) -> None:
    arguments = [*FAST, *QUICK, f"data.root={sample}", "test=false", "logger.wandb.log_model=true", "hydra.run.dir=run"]
    command("train", *arguments, cwd=tmp_path)
    run = read_offline_run(next((tmp_path / "run/wandb").glob("offline-run-*")))
    assert run.artifacts["model"]


def test_several_dashboards_at_once(sample: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    arguments = [*FAST, *QUICK, f"data.root={sample}", "test=false", "logger=many", "hydra.run.dir=run"]
    command("train", *arguments, cwd=tmp_path)
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))
    assert list((tmp_path / "run/tensorboard").glob("events.out.*"))


def test_the_sweep_file_for_wandbs_agent_makes_commands_that_run(tmp_path: Path) -> None:
    sweep = yaml.safe_load((CONF_DIR / "wandb/sweep.yaml").read_text())
    drawn = {
        name: {"value": spec.get("value", spec.get("min", spec.get("values", [None])[0]))}
        for name, spec in sweep["parameters"].items()
    }
    values = create_sweep_command_args({"args": drawn})
    values |= {"env": [], "interpreter": [sys.executable], "program": [sweep["program"]]}
    parts = [values[part[2:-1]] if part.startswith("${") else [part] for part in sweep["command"]]  # as its agent does
    result = subprocess.run(
        [*itertools.chain(*parts), "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert yaml.safe_load(result.stdout)["optimizer"]["lr"] == 0.0001
