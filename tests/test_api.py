"""The Python API gives the numbers of the commands."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import sports_lightning as sl
from sports_lightning.errors import UserError
from sports_lightning.models.classifier import CHECKPOINT_KEY, build_classifier

CLASSES = ["bowling", "judo", "tennis"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven images of noise per class and split, of different sizes."""
    draws = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for label, name in enumerate(CLASSES):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(7):
                pixels = draws.integers(60 * label, 60 * label + 120, (40 + i, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def checkpoint(tmp_path: Path, data: Path) -> Path:
    """A checkpoint with random weights and a temperature."""
    torch.manual_seed(0)
    model = {"name": "scratch_cnn", "pretrained": False, "weights": None, "image_size": 32, "arguments": {}}
    classifier = build_classifier(OmegaConf.create(model), CLASSES, data)
    state = {f"classifier.{name}": value for name, value in classifier.state_dict().items()}
    spec = {**asdict(classifier.spec), "temperature": 1.7}
    torch.save({CHECKPOINT_KEY: spec, "state_dict": state}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, sports_lightning; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = sl.missing


def test_predict_and_evaluate_give_the_numbers_of_the_commands(
    data: Path, checkpoint: Path, tmp_path: Path, in_process: Callable[..., tuple[int, str]]
) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    assert classifier.classes == CLASSES
    images = sorted((data / "test").rglob("*.png"))
    common = [f"ckpt_path={checkpoint}", "inference.accelerator=cpu"]
    assert in_process("predict", *common, f"input={data / 'test'}", f"hydra.run.dir={tmp_path / 'predicted'}")[0] == 0
    with (tmp_path / "predicted/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    predictions = classifier.predict(images, top_k=2)
    assert [(p.label, repr(p.probability)) for p in predictions] == [(r["prediction"], r["probability"]) for r in rows]
    assert [[(n, repr(v)) for n, v in p.top] for p in predictions] == [
        [(r["top1"], r["top1_probability"]), (r["top2"], r["top2_probability"])] for r in rows
    ]
    run = [*common, f"data.root={data}", "data.audit=false", f"hydra.run.dir={tmp_path / 'evaluated'}"]
    assert in_process("evaluate", *run)[0] == 0
    theirs = json.loads((tmp_path / "evaluated/metrics.json").read_text())["test"]
    evaluation = classifier.evaluate(data / "test")
    assert json.loads(json.dumps(evaluation.metrics)) == theirs
    assert list(evaluation.per_class["label"]) == CLASSES
    assert evaluation.probabilities.tolist() == classifier.predict_proba(images).tolist()
    assert evaluation.confusion.sum() == len(images)


def test_an_image_may_be_a_path_or_in_memory(data: Path, checkpoint: Path) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    path = next((data / "test").rglob("*.png"))
    array = np.array(Image.open(path))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms: list[Any] = [path, str(path), Image.open(path), array, tensor]
    assert all(classifier.transform(form).equal(classifier.transform(path)) for form in forms)
    assert classifier.transform(path).shape == (3, 32, 32)
    probabilities = classifier.predict_proba(forms)
    assert probabilities.dtype == np.float64
    assert (probabilities == probabilities[0]).all()
    assert (classifier.predict_proba(np.stack([array] * 3)) == probabilities[0]).all()
    features = classifier.embed(forms, batch_size=2)
    assert features.shape == (5, 256)
    assert features.dtype == np.float32


def test_wrong_images_are_refused(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"uint8 \(h, w, 3\), not float64 \(8, 8, 3\)"):
        classifier.predict([np.zeros((8, 8, 3))])
    with pytest.raises(ValueError, match=r"uint8 \(3, h, w\)"):
        classifier.predict([torch.zeros(8, 8, 3, dtype=torch.uint8)])
    with pytest.raises(TypeError, match="sequence of images"):
        classifier.predict(str(data))
    with pytest.raises(TypeError, match="not int"):
        classifier.predict([1])  # type: ignore[list-item]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="broken.png"):
        classifier.predict([tmp_path / "broken.png"])
    with pytest.raises(ValueError, match="device='abacus'"):
        sl.load(checkpoint, device="abacus")
    with pytest.raises(ValueError, match="batch_size=0"):
        classifier.predict([data], batch_size=0)
    (data / "test/polo").mkdir()
    with pytest.raises(UserError, match="does not know class 'polo'"):
        classifier.evaluate(data / "test")


class InMemory:
    """A dataset of a user's own."""

    classes = ("tennis", "judo")
    labels = (0, 0, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        return np.full((40, 50, 3), 60 * index, dtype=np.uint8)

    def digest(self, index: int) -> None:
        return None


def test_a_dataset_may_know_fewer_classes_in_another_order(checkpoint: Path) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    evaluation = classifier.evaluate(InMemory())
    assert evaluation.labels.tolist() == [2, 2, 1]
    predicted = [CLASSES.index(p.label) for p in classifier.predict([InMemory().image(i) for i in range(3)])]
    assert evaluation.metrics["acc"] == sum(np.equal(predicted, [2, 2, 1])) / 3
