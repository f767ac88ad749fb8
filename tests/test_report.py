"""The report of a run: one file with the same numbers as the run's other files."""

import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.accelerators import CUDAAccelerator

from commands import run_command, try_command
from conftest import assert_error_line
from sports_lightning.compare.run_reader import read_runs
from sports_lightning.evaluate.intervals import format_metric
from sports_lightning.models.classifier import Classifier, ClassifierSpec
from sports_lightning.reports import html, plots
from sports_lightning.reports.gradcam import draw_heatmaps
from sports_lightning.reports.html import chart, write_page
from sports_lightning.train import decorations
from sports_lightning.train.decorations import read_results


def test_the_report_equals_the_files_and_makes_no_requests(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    page = (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    for split in ("val", "test"):
        for name in ("loss", "acc", "f1_macro", "brier"):
            assert format_metric(metrics[split], name) in page
    assert f"<b>{100 * metrics['test']['acc']:.1f} %</b>" in page
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?(https?:)?//""", page)
    assert not re.search(r"<(link|iframe|script src)", page)
    assert page.count("data:image/jpeg;base64,") >= 24, "mistakes, successes, heat maps and training images"
    classes = re.findall(r"<tr><td>([a-z]+)</td><td class=\"n\">5</td>", page)
    assert len(set(classes)) == 10, "every class has its row"


def test_the_model_card_contains_the_same_metrics(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    card = (folder / "checkpoints/MODEL_CARD.md").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())["test"]
    assert f"| acc | {format_metric(metrics, 'acc')} |" in card
    assert json.loads((folder / "run.json").read_text())["command"] in card
    assert "archery" in card


def test_the_report_is_in_the_dashboard(trained: tuple[Path, str]) -> None:
    assert list((trained[0] / "wandb").glob("offline-run-*/files/media/html/report_*.html"))


def test_names_that_contain_markup_are_escaped(tmp_path: Path) -> None:
    found = {
        "root": "<script>alert(1)</script>", "images": {"train": 1}, "leaking_images": {"train": 0}, "identical": 0,
        "near_duplicates": 0, "label_conflicts": [], "unreadable": {'"><img src=x onerror=alert(1)>.jpg': "<b>why</b>"},
        "pairs": [], "classes_missing": {}, "classes": 1, "imbalance": {"split": "train", "least": 1, "most": 1},
        "splits_missing": [], "usual_size": [1, 1], "ignored": "<u>.txt", "nested": "<s>a</s>", "several_images": [],
        "odd_sized": {}, "tiny": [], "grey": [], "feature_neighbours": None, "class_counts": {"<i>a</i>": {"train": 1}},
        "suspects": None,
    }  # fmt: skip
    write_page(tmp_path / "audit.html", "audit.html", found=found, pairs=[], tiny=64)
    page = (tmp_path / "audit.html").read_text()
    assert "alert(1)" in page
    for markup in ("<script>alert", "<img src=x", "<b>why", "<i>a", "<u>.txt", "<s>a"):
        assert markup not in page


def test_a_chart_omits_non_finite_points_and_can_be_empty() -> None:
    assert chart({})["lines"] == []
    drawn = chart({"a": [(1, 2.0), (2, float("nan")), (3, 4.0)], "b": [(1, float("inf"))], "c": [(5, 5.0)]})
    assert [(line["name"], len(line["points"].split())) for line in drawn["lines"]] == [("a", 2), ("c", 1)]


@pytest.mark.parametrize(("name", "has_maps"), [("test_resnet", True), ("test_vit", False)])
def test_heat_maps_are_drawn_for_models_with_feature_maps(name: str, has_maps: bool) -> None:
    import timm

    size = timm.get_pretrained_cfg(name).input_size[1]
    net = timm.create_model(name, num_classes=3)
    preprocessing = {
        "size": [size, size], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
        "crop_mode": "center",
    }  # fmt: skip
    classifier = Classifier(net, ClassifierSpec(name, {}, ["a", "b", "c"], preprocessing, "")).eval()
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    drawn = draw_heatmaps(classifier, images, torch.tensor([0, 2]))
    assert [image.size for image in drawn] == ([(size, size)] * 2 if has_maps else [])


@pytest.mark.slow
def test_a_confusion_matrix_of_a_thousand_classes_is_no_larger_than_one_of_two_hundred(tmp_path: Path) -> None:
    plots.confusion_matrix(torch.eye(1000, dtype=torch.int64), [f"class {i}" for i in range(1000)], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (5050, 5050)


@pytest.mark.slow
def test_a_run_without_audit_on_a_part_of_the_images_is_compared_and_drawn_elsewhere(few: Path, tmp_path: Path) -> None:
    run_command(
        "train", "data=sample", f"data.root={few}", "model.image_size=64", "debug=fast", "data.audit=false",
        "logger=csv", "hydra.run.dir=run",
    )  # fmt: skip
    assert "Not audited" in (tmp_path / "run/report.html").read_text()
    (run,), _ = read_runs([tmp_path / "run"])
    assert len(run.is_correct) == run.provenance["data"]["test"]["count"] < len(list(few.glob("test/*/*.jpg")))
    config = OmegaConf.load(tmp_path / "run/.hydra/config.yaml")
    config.trainer.accelerator = "mps" if CUDAAccelerator.is_available() else "gpu"
    OmegaConf.save(config, tmp_path / "run/.hydra/config.yaml")
    results = read_results(tmp_path / "run")
    assert results.evaluation.is_correct.tolist() == run.is_correct, "on another machine"


def test_names_have_no_meaning_in_markdown() -> None:
    assert html._markdown("<b>x | `y`\n# z") == r"\<b\>x \| \`y\`\\n\# z"


def test_the_command_report_leaves_no_folder_of_its_own_and_prints_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decorations, "complete_decorations", lambda folder: None)
    (run := tmp_path / "run").mkdir()
    assert_error_line(try_command("report", f"run={run}"), f"run={run} holds no finished run of train")
    (run / "metrics.json").touch()
    result = run_command("report", f"run={run}", "trust=true", "hydra.run.dir=own")
    assert result.last_line == str(run)
    assert not (tmp_path / "own").exists()
