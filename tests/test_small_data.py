"""Small and skewed data: what trains, what is refused in a line, and which metrics mean nothing there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import run_command, try_command
from conftest import assert_error_line
from sports_lightning.data.dataset_index import Split
from sports_lightning.evaluate.calibration import calibration_metrics, ece_by_chance
from sports_lightning.evaluate.caveats import describe_caveats
from sports_lightning.evaluate.evaluation import Evaluation
from test_splits import draw

TINY = ["data=folder", "model.image_size=32", "logger=csv", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
TINY += ["trainer.precision=32-true", "trainer.enable_progress_bar=false"]


def evaluation_of(labels: list[int], predicted: list[int], classes: int, confidence: float = 0.9) -> Evaluation:
    rest = (1 - confidence) / (classes - 1)
    probabilities = torch.full((len(labels), classes), rest)
    probabilities[torch.arange(len(labels)), predicted] = confidence
    paths = [f"{i}.png" for i in range(len(labels))]
    return Evaluation(Path("x"), Split(paths, labels), [f"c{i}" for i in range(classes)], probabilities.log())


def caveats(*arguments: Any) -> str:
    return "\n".join(describe_caveats({"test": evaluation_of(*arguments).metrics()}))


def test_two_classes_of_which_one_dominates() -> None:
    labels = [0] * 297 + [1] * 3
    metrics = evaluation_of(labels, [0] * 300, 2).metrics()
    assert metrics["acc_majority"] == 0.99
    found = caveats(labels, [0] * 300, 2)
    assert "test: acc is not distinguishable from always predicting c0, which has acc 0.9900" in found
    assert "test: acc_top5 is always 1 with 2 classes" in found
    assert "recall, precision and F1 of 1 of 2 classes rest on fewer than 10 images" in found
    half = [0] * 240 + [1] * 60
    assert "always predicting c0 has acc 0.8000, and recall_macro 0.5000" in caveats(half, half, 2)


def test_a_few_images() -> None:
    found = caveats([0, 1, 2], [0, 1, 2], 3)
    assert "acc is uncertain by 0.56 (95 % interval), with 3 images" in found
    assert "3 classes have a single image" in found
    assert "ece is mostly chance" in caveats([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 1], 3, 0.8)
    assert "some macro averages have no intervals" in caveats([0, 0, 1, 1], [0, 0, 1, 1], 2)
    assert "f1_macro" not in evaluation_of([0, 0, 1, 1], [0, 0, 1, 1], 2).metrics()["ci95"]
    assert "do not cover the class without images" in caveats([0, 0, 1, 1], [0, 0, 1, 1], 3)


def test_many_images_of_many_classes_have_no_caveats() -> None:
    labels = [i % 20 for i in range(2000)]
    predicted = [label if i % 7 else (label + 1) % 20 for i, label in enumerate(labels)]
    assert caveats(labels, predicted, 20, 0.86) == ""
    assert "acc_top5 is 0.71 for guesses among 7 classes" in caveats([i % 7 for i in range(700)], [0] * 700, 7)


def test_the_calibration_error_by_chance_is_that_of_calibrated_predictions() -> None:
    draws = np.random.default_rng(0)
    confidence = draws.uniform(0.5, 1, 60)
    drawn = []
    for _ in range(300):
        labels = torch.from_numpy((draws.random(60) > confidence).astype(np.int64))
        drawn.append(calibration_metrics(torch.tensor(np.stack([confidence, 1 - confidence], 1)), labels)["ece"])
    assert ece_by_chance(confidence) == pytest.approx(np.mean(drawn), rel=0.15)


@pytest.fixture
def ones(tmp_path: Path) -> Path:
    """One image per class and split."""
    for c in range(3):
        for s, split in enumerate(("train", "valid", "test")):
            draw(tmp_path / "ones" / split / "abc"[c] / "1.png", 10 * s + c)
    return tmp_path / "ones"


@pytest.mark.slow
def test_one_image_per_class_trains_and_a_batch_of_one_with_batchnorm_is_refused(ones: Path, tmp_path: Path) -> None:
    arguments = [*TINY, f"data.root={ones}", "model=scratch_cnn"]
    refused = try_command("train", *arguments, "data.batch_size=1", cwd=tmp_path)
    assert_error_line(refused, "BatchNorm layers", "raise data.batch_size=1 to two or more per device")
    devices = try_command("train", *arguments, "trainer.devices=4", "data.batch_size=4", cwd=tmp_path)
    assert_error_line(devices, "3 training images for 4 devices")
    run = run_command("train", *arguments, "calibrate=true", "refit=1e-3", cwd=tmp_path)
    folder = Path(run.stdout.splitlines()[-1])
    line = "test: acc_top5 is always 1 with 3 classes"
    for text in (run.stdout, (folder / "report.html").read_text(), next(folder.rglob("MODEL_CARD.md")).read_text()):
        assert line in text
        assert "acc_majority" in text


def test_one_image_per_class_without_splits_is_one_line(tmp_path: Path) -> None:
    for name in "abc":
        draw(tmp_path / "one" / name / "1.png", ord(name))
    refused = try_command("train", *TINY, f"data.root={tmp_path}/one", "model=scratch_cnn", cwd=tmp_path)
    assert_error_line(refused, "no image is left for val")
