"""The comparison of finished runs, on the command line."""

import json
import shutil
from pathlib import Path

import pytest

from commands import jobs_in_this_process, run_command, try_command
from conftest import FAST, assert_error_line
from sports_lightning.compare.significance import holm


@pytest.fixture(scope="module")
def runs(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two rates."""
    folder = tmp_path_factory.mktemp("compare")
    settings = [*FAST, f"data.root={few}", "logger=csv", "trainer.max_epochs=1"]
    with jobs_in_this_process():
        run_command("train", "-m", *settings, "seed=0,1", "optimizer.lr=1e-5,3e-3", "hydra.sweep.dir=sweep", cwd=folder)
    return folder


@pytest.mark.slow
def test_runs_are_compared_image_by_image(runs: Path) -> None:
    printed = run_command("compare", "sweep", "hydra.run.dir=out", cwd=runs).stdout
    result = json.loads((runs / "out/compare.json").read_text())
    assert [run["settings"] for run in result["runs"]] == [
        {"optimizer.lr": rate, "seed": seed} for seed in (0, 1) for rate in (1e-5, 3e-3)
    ]
    assert len(result["pairings"]) == 6
    assert [p["p_holm"] for p in result["pairings"]] == holm([p["result"]["p_value"] for p in result["pairings"]])
    for pair in result["pairings"]:
        first, second = (
            next(r["metrics"]["test"]["acc"] for r in result["runs"] if r["name"] == pair[n])
            for n in ("first", "second")
        )
        assert pair["result"]["difference"] == pytest.approx(first - second)
        expected = "not distinguishable" if pair["p_holm"] >= 0.05 else pair["first" if first > second else "second"]
        assert pair["verdict"].startswith(expected)
    assert len(result["seeds"]) == 2
    assert all(len(group["runs"]) == 2 for group in result["seeds"])
    assert "mean ± standard error" in printed
    page = (runs / "out/compare.html").read_text()
    assert page.count('<tr data-run="') == 4
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.slow
def test_runs_on_different_data_are_not_paired(runs: Path, few: Path) -> None:
    shutil.copytree(few, runs / "other")
    next((runs / "other/test/archery").iterdir()).unlink()
    checkpoint = "ckpt_path=sweep/1/checkpoints/best.ckpt"
    run_command("evaluate", checkpoint, "data.root=other", "hydra.run.dir=elsewhere", cwd=runs)
    run_command("evaluate", checkpoint, "hydra.run.dir=again", cwd=runs)
    printed = run_command("compare", "elsewhere", "again", "sweep/1", "hydra.run.dir=out2", cwd=runs).stdout
    result = json.loads((runs / "out2/compare.json").read_text())
    assert [(pair["first"], pair["second"]) for pair in result["pairings"]] == [("again", "sweep/1")]
    assert result["pairings"][0]["result"]["difference"] == 0.0
    assert result["pairings"][0]["verdict"] == "not distinguishable"
    assert len(result["not_paired"]) == 2
    assert all("elsewhere" in line for line in result["not_paired"])
    assert "not paired: elsewhere and again: different data" in printed


@pytest.mark.parametrize(("arguments", "culprit"), [([], "runs"), (["nowhere"], "nowhere"), (["empty"], "no finished")])
def test_folders_without_finished_runs_are_refused(arguments: list[str], culprit: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed = try_command("compare", *arguments)
    assert_error_line(failed, culprit)
