"""The run folders that a comparison reads: damaged ones are skipped with a reason."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sports_lightning.compare.comparison import compare_runs
from sports_lightning.compare.run_reader import read_runs
from sports_lightning.errors import UserError
from sports_lightning.storage.files import write_csv


def write_run(folder: Path, seed: int, predictions: str) -> None:
    """Write the files of a finished run on four images of class a."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save({"seed": seed, "optimizer": {"lr": 0.1}, "logger": {"x": seed}}, folder / ".hydra/config.yaml")
    OmegaConf.save({"hydra": {"job": {"config_name": "train"}}}, folder / ".hydra/hydra.yaml")
    accuracy = predictions.count("a") / 4
    (folder / "metrics.json").write_text(json.dumps({"test": {"acc": accuracy, "loss": 1.0, "f1_macro": 0.5}}))
    data = {"test": {"fingerprint": "f" * 16, "count": 4}}
    (folder / "run.json").write_text(json.dumps({"data": data, "predictions": "test"}))
    write_csv(folder / "predictions.csv", ["label", "prediction"], [["a", p] for p in predictions])


@pytest.mark.parametrize("damage", ["torn", "missing", "no job", "not yaml"])
def test_a_damaged_run_folder_does_not_stop_the_comparison(tmp_path: Path, damage: str) -> None:
    write_run(tmp_path / "runs/0", 0, "aaab")
    write_run(tmp_path / "runs/1", 1, "aabb")
    shutil.copytree(tmp_path / "runs/0", tmp_path / "runs/damaged")
    file = tmp_path / "runs/damaged/.hydra/hydra.yaml"
    match damage:
        case "torn":
            file.write_bytes(b"hydra:\n  job: {config_na")
        case "missing":
            file.unlink()
        case "no job":
            file.write_text("a list: [1]\n")
        case "not yaml":
            file.write_bytes(b"\xff\x00\x9f")
    runs, skipped = read_runs([tmp_path / "runs"])
    assert [run.name for run in runs] == ["0", "1"]
    assert list(skipped) == [tmp_path / "runs/damaged"]
    assert "hydra.yaml" in skipped[tmp_path / "runs/damaged"]
    comparison = compare_runs(runs)
    assert comparison.differing == ["seed"]
    assert [pairing.result.difference for pairing in comparison.pairings] == [0.25]
    assert comparison.seeds[0].metrics["test/acc"][0] == 0.625


def test_images_of_one_scene_count_as_one_observation(tmp_path: Path) -> None:
    """Twelve frames of one video that only one run has right are no evidence; twelve images are."""
    for name, prediction in (("right", "a"), ("wrong", "b")):
        write_run(tmp_path / name, 0, "aaaa")
        run = json.loads((tmp_path / name / "run.json").read_text())
        run["data"]["test"]["count"] = 12
        (tmp_path / name / "run.json").write_text(json.dumps(run))
        write_csv(tmp_path / name / "predictions.csv", ["label", "prediction"], [["a", prediction]] * 12)
    (separate,) = compare_runs(read_runs([tmp_path])[0]).pairings
    assert separate.result.p_value == pytest.approx(2 * 0.5**12)
    rows = [["a", "b", 3]] * 12
    write_csv(tmp_path / "wrong/predictions.csv", ["label", "prediction", "group"], rows)
    (together,) = compare_runs(read_runs([tmp_path])[0]).pairings
    assert together.result.p_value == 1.0


def test_other_damage_is_skipped_too(tmp_path: Path) -> None:
    for name in ("whole", "short", "unfinished", "config"):
        write_run(tmp_path / name, 0, "aaab")
    write_csv(tmp_path / "short/predictions.csv", ["label", "prediction"], [["a", "a"]])
    (tmp_path / "unfinished/metrics.json").unlink()
    (tmp_path / "config/.hydra/config.yaml").write_text("a: [")
    runs, skipped = read_runs([str(tmp_path)])
    assert [run.folder.name for run in runs] == ["whole"]
    reasons = {folder.name: reason for folder, reason in skipped.items()}
    assert set(reasons) == {"short", "unfinished", "config"}
    assert reasons["unfinished"] == "not finished"
    assert "does not hold the images of test" in reasons["short"]
    with pytest.raises(UserError, match=r"no finished run in .*unfinished: .* not finished"):
        read_runs([tmp_path / "unfinished"])
    with pytest.raises(UserError, match="is not a folder"):
        read_runs([tmp_path / "nowhere"])


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    for name in ("run", "predictions"):
        write_run(tmp_path / name, 0, "aaab")
    OmegaConf.save({"hydra": {"job": {"config_name": "predict"}}}, tmp_path / "predictions/.hydra/hydra.yaml")
    (tmp_path / "images").mkdir()
    runs, skipped = read_runs([tmp_path, tmp_path / "predictions", tmp_path / "images"])
    assert [run.folder.name for run in runs] == ["run"]
    assert skipped == dict.fromkeys(
        [tmp_path / "predictions", tmp_path / "images"], "no run of train or evaluate in it"
    )
