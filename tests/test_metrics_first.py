"""A finished training keeps its metrics if a plot or dashboard fails; missing files can be drawn later."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from commands import run_command, try_command
from image_lists import data_settings
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.models.classifier import Classifier, ClassifierSpec
from sports_lightning.reports.decorations import draw_missing
from sports_lightning.reports.gradcam import draw_heatmaps
from sports_lightning.reports.plots import image_grid
from sports_lightning.runs.layout import DECORATIONS, missing_decorations
from sports_lightning.train.results import scan_if_possible

QUICK = [
    "data=folder", "data.batch_size=4", "data.num_workers=0", "data.audit=false", "model.image_size=32",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=1", "trainer.precision=32-true",
    "augment=none", "logger=csv", "hydra.run.dir=run",
]  # fmt: skip


@timm.models.register_model
def toy_without_features(pretrained: bool = False, num_classes: int = 10, **_: Any) -> nn.Module:
    """A backbone that has neither forward_features nor forward_head."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
    cfg: Any = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    net.pretrained_cfg = {**cfg, "crop_pct": 1.0, "crop_mode": "center", "fixed_input_size": False}
    return net


class FailingLogger(CSVLogger):
    """A dashboard that is unreachable at the end."""

    def finalize(self, status: str) -> None:
        raise ConnectionError("the dashboard is gone")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of noise, four training images each; the test images are 1 × 300 pixels."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                size = (300, 1) if split == "test" else (32, 32)
                Image.fromarray(draws.integers(256, size=(*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def train(images: Path, *arguments: str) -> None:
    run_command("train", *QUICK, f"data.root={images}", *arguments)


@pytest.mark.slow
def test_thin_images_and_a_backbone_without_features_end_with_metrics_and_a_report(
    images: Path, tmp_path: Path
) -> None:
    train(images, "model=timm", "model.name=toy_without_features", "model.pretrained=false")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["count"] == 4
    assert missing_decorations(tmp_path / "run") == []
    assert (
        "There are no heat maps: this model does not end with feature maps"
        in (tmp_path / "run/report.html").read_text()
    )


@pytest.mark.slow
def test_a_failing_decoration_or_dashboard_only_warns(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sports_lightning.train.run_report as run_report

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no memory for the page")

    with monkeypatch.context() as patched:
        patched.setattr(run_report, "write_page", fail)
        dashboard = "+logger.broken._target_=test_metrics_first.FailingLogger"
        train(images, dashboard, "+logger.broken.save_dir=${hydra:runtime.output_dir}/broken")
    log = (tmp_path / "run/train.log").read_text()
    assert "report.html was not drawn: MemoryError: no memory for the page" in log
    assert "FailingLogger failed; the run continues without it: ConnectionError: the dashboard is gone" in log
    assert (tmp_path / "run/metrics.json").exists()
    missing = ["report.html", "checkpoints/MODEL_CARD.md"]
    assert missing_decorations(tmp_path / "run") == missing

    metrics = (tmp_path / "run/metrics.json").read_bytes()
    run_command("report", f"run={tmp_path}/run", "trust=true", "hydra.run.dir=out")
    assert missing_decorations(tmp_path / "run") == []
    (tmp_path / "run/curves.png").unlink()
    run_command("train", f"resume={tmp_path}/run", "trust=true")
    assert missing_decorations(tmp_path / "run") == []
    assert (tmp_path / "run/metrics.json").read_bytes() == metrics
    again = try_command("train", f"resume={tmp_path}/run", "trust=true")
    assert again.status == 1
    assert "holds a finished run" in again.stderr


def test_images_that_cannot_be_audited_cost_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = DatasetIndex(tmp_path / "gone", ["a", "b"], {})
    assert scan_if_possible(index, data_settings(tmp_path / "gone")) is None
    assert "the images were not audited, so leaks are unknown: " in caplog.text


def test_a_failing_drawing_does_not_prevent_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("no font\nmore")

    with caplog.at_level(logging.WARNING):
        drawn = draw_missing({"a.png": fail, "b.png": lambda path: path.write_text("b")}, tmp_path)
    assert drawn == ["b.png"]
    assert caplog.messages == ["a.png was not drawn: RuntimeError: no font"]


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (20000, 1), (1, 20000), (1, 1)])
def test_images_of_any_aspect_ratio_fit_into_a_grid(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "thin.png")
    image_grid([tmp_path / "thin.png"], ["thin"], tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        colors = np.asarray(grid.convert("RGB")).reshape(-1, 3)
    assert (colors == (255, 0, 0)).all(axis=1).any(), "the image can be seen"


@pytest.mark.parametrize("name", ["coat_tiny", "toy_without_features"])
def test_models_without_feature_maps_have_no_heat_maps(name: str) -> None:
    net = timm.create_model(name, num_classes=2)
    side = 224 if name == "coat_tiny" else 32
    preprocessing = {
        "size": [side, side], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
        "crop_mode": "center",
    }  # fmt: skip
    classifier = Classifier(net, ClassifierSpec(name, {}, ["a", "b"], preprocessing, "")).eval()
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    assert draw_heatmaps(classifier, images, torch.tensor([0])) == []


def test_the_drawn_decorations_are_those_of_the_layout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sports_lightning.train import decorations

    asked: list[str] = []
    monkeypatch.setattr(decorations, "draw_missing", lambda drawings, folder: asked.extend(drawings) or asked)
    results: Any = SimpleNamespace(evaluation=None, folder=tmp_path)
    decorations.draw_decorations(results)
    assert tuple(asked) == DECORATIONS


def test_out_of_memory_halves_the_inference_batch(caplog: pytest.LogCaptureFixture) -> None:

    from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory

    def compute(inference: Any) -> Tensor:
        if inference.batch_size > 8:
            return torch.empty(10**15)
        return torch.tensor(inference.batch_size)

    settings = OmegaConf.create({"batch_size": 32})
    with caplog.at_level(logging.WARNING):
        result, used = halve_batch_on_out_of_memory(compute, settings)
    assert (int(result), used.batch_size, settings.batch_size) == (8, 8, 32)
    assert len(caplog.messages) == 2
    with pytest.raises(RuntimeError, match="shapes"):
        halve_batch_on_out_of_memory(lambda _: torch.ones(2, 3) @ torch.ones(2, 3), settings)


def test_predictions_are_printed_although_their_plot_fails_and_memory_is_short(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    from sports_lightning.inference import exported
    from sports_lightning.predict import prediction, results
    from sports_lightning.predict.__main__ import predict

    def run(_: Any, __: Any, files: Any, inference: Any, receive: Any) -> None:
        if inference.batch_size > 2:
            torch.empty(10**15)
        receive(torch.eye(2)[[0] * len(files)], torch.ones(len(files), dtype=torch.bool))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no font")

    classifier = SimpleNamespace(
        spec=SimpleNamespace(classes=["a", "b"], preprocessing={}),
        preprocessing=SimpleNamespace(value_range=None),
        rejection=None,
        set_crop_mode=lambda _: None,
    )
    monkeypatch.setattr(exported, "open_classifier", lambda _: classifier)
    monkeypatch.setattr(prediction, "run_readable", run)
    monkeypatch.setattr(results.plots, "image_grid", fail)
    for file in ("best.ckpt", "predictions.png"):
        (tmp_path / file).touch()
    inference = {"precision": "32-true", "compile": False, "flip_tta": False, "batch_size": 4, "accelerator": "cpu"}
    cfg = {"ckpt_path": "best.ckpt", "input": str(images / "valid"), "inference": inference}
    cfg |= {
        "video": {"every": 0.5, "min_segment": 1.0, "reject": None, "chapters": False},
        "reject": None,
        "coverage": None,
        "conformal": "lac",
    }
    cfg |= {"data": {"max_pixels": None, "value_range": "auto", "crop_mode": None}, "save": []}
    with caplog.at_level(logging.WARNING):
        predict(OmegaConf.create(cfg), tmp_path)
    assert (tmp_path / "predictions.csv").read_text().count("\n") == 5
    assert not (tmp_path / "predictions.png").exists(), "a plot of other images"
    assert [record.message for record in caplog.records if record.name.startswith("sports_lightning")] == [
        "out of memory with inference.batch_size=4: continuing with 2",
        "predictions.png was not drawn: RuntimeError: no font",
    ]


def test_memory_that_is_too_small_for_one_image_is_one_line() -> None:
    sizes = []

    def compute(inference: Any) -> None:
        sizes.append(inference.batch_size)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="out of memory with one image at a time"):
        halve_batch_on_out_of_memory(compute, OmegaConf.create({"batch_size": 4}))
    assert sizes == [4, 2, 1]
