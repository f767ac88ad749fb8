"""Run folders of version 0.1, which commit f77e15b wrote, keep working."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from commands import call_as_command, run_command, try_command
from conftest import assert_error_line
from sports_lightning.cli.distributed import load_job

STORED = Path(__file__).parent / "data/version_0_1"


@pytest.fixture
def version_0_1(tmp_path: Path) -> Path:
    """The run folders `finished`, `interrupted` and `sweep` and their images, `data`, as if written here."""
    folder = tmp_path / "version_0_1"
    shutil.copytree(STORED, folder)
    for file in folder.rglob("*"):
        if file.suffix in (".yaml", ".json", ".log"):
            file.write_text(file.read_text().replace("VERSION_0_1", str(folder)))
    return folder


def epochs(run: Path) -> list[str]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_its_end(version_0_1: Path) -> None:
    run = version_0_1 / "interrupted"
    table = (run / "metrics.csv").read_text()
    assert run_command("train", f"resume={run}").last_line == str(run)
    assert (run / "metrics.csv").read_text().startswith(table), "the epochs before the interruption are kept"
    assert epochs(run) == [str(epoch) for epoch in range(40)]
    assert json.loads((run / "run.json").read_text())["interruptions"] == 1
    assert set(json.loads((run / "metrics.json").read_text())) == {"train", "val", "test"}


def test_changed_settings_replace_those_under_their_earlier_names(version_0_1: Path) -> None:
    run = version_0_1 / "interrupted"
    assert "mirror:" in (run / ".hydra/config.yaml").read_text()
    found = []
    call_as_command(lambda: found.append(load_job(run, {"inference": {"flip_tta": True}})))
    assert found[0].inference.flip_tta is True
    assert_error_line(try_command("train", f"resume={run}", "data.root=nowhere"), "nowhere")
    assert not (run / ".hydra/resumed.yaml").exists(), "what cannot be used is not stored"


@pytest.mark.slow
def test_a_finished_run_is_evaluated_with_the_same_metrics(version_0_1: Path, tmp_path: Path) -> None:
    run = version_0_1 / "finished"
    checkpoint = f"ckpt_path={run}/checkpoints/best.ckpt"
    run_command("evaluate", checkpoint, f"data.root={version_0_1}/data", "hydra.run.dir=evaluated")
    stored, again = (
        json.loads((folder / "metrics.json").read_text())["test"] for folder in (run, tmp_path / "evaluated")
    )
    names = ("acc", "f1_macro", "loss", "brier")
    assert [again[name] for name in names] == pytest.approx([stored[name] for name in names], abs=1e-5)


def test_finished_runs_are_compared(version_0_1: Path, tmp_path: Path) -> None:
    run_command("compare", f"{version_0_1}/finished", f"{version_0_1}/sweep", "hydra.run.dir=compared")
    result = json.loads((tmp_path / "compared/compare.json").read_text())
    assert len(result["runs"]) == 2
    assert len(result["pairings"]) == 1, "they predicted the same images"


@pytest.mark.slow
def test_a_finished_run_is_reproduced_or_the_machine_differs(version_0_1: Path) -> None:
    result = try_command("reproduce", f"run={version_0_1}/finished")
    if result.status == 0:
        assert "identical to the last digit" in result.stdout
    else:
        assert result.stderr.startswith("error: not reproduced: ")
        assert "machine" in result.stderr or "packages" in result.stderr


@pytest.mark.slow
def test_a_finished_sweep_has_nothing_left_to_do(version_0_1: Path) -> None:
    sweep = version_0_1 / "sweep"
    shutil.copytree(sweep / "0", sweep / "1")
    hydra = sweep / "1/.hydra/hydra.yaml"
    hydra.write_text(hydra.read_text().replace(f"output_dir: {sweep}/0", f"output_dir: {sweep}/1"))
    metrics = {file: file.read_bytes() for file in sweep.glob("*/metrics.json")}
    run_command("train", f"resume={sweep}")
    assert {file: file.read_bytes() for file in metrics} == metrics
