"""The Python API gives the numbers of the commands."""

import csv
import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import sports_lightning as sl
from commands import run_command
from sports_lightning.api.dataset_folder import write_splits
from sports_lightning.api.image_classifier import quiet_lightning
from sports_lightning.errors import UserError
from sports_lightning.models.classifier import CHECKPOINT_KEY, Classifier, build_classifier

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
    model = {
        "name": "scratch_cnn",
        "pretrained": False,
        "weights": None,
        "image_size": 32,
        "crop_mode": None,
        "arguments": {},
    }
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


@pytest.mark.slow
def test_predict_and_evaluate_equal_the_commands(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    assert classifier.classes == CLASSES
    images = sorted((data / "test").rglob("*.png"))
    common = [f"ckpt_path={checkpoint}", "inference.accelerator=cpu", "save=[probabilities,features]"]
    run_command("predict", *common, f"input={data / 'test'}", f"hydra.run.dir={tmp_path / 'predicted'}")
    with (tmp_path / "predicted/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    predictions = classifier.predict(images, top_k=2)
    assert [(p.label, repr(p.probability)) for p in predictions] == [(r["prediction"], r["probability"]) for r in rows]
    assert [[(n, repr(v)) for n, v in p.top] for p in predictions] == [
        [(r["top1"], r["top1_probability"]), (r["top2"], r["top2_probability"])] for r in rows
    ]
    run = [*common, f"data.root={data}", "data.audit=false", f"hydra.run.dir={tmp_path / 'evaluated'}"]
    run_command("evaluate", *run)
    for folder in ("predicted", "evaluated"):
        with np.load(tmp_path / folder / "predictions.npz") as arrays:
            assert arrays["classes"].tolist() == CLASSES
            assert (arrays["probabilities"] == classifier.predict_proba(images).astype(np.float32)).all()
            assert (arrays["features"] == classifier.embed(images)).all()
            assert [Path(path).name for path in arrays["paths"]] == [path.name for path in images]
            assert ("labels" in arrays) == (folder == "evaluated")
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
    content = path.read_bytes()
    forms: list[Any] = [path, str(path), content, Image.open(path), array, tensor]
    assert all(classifier.transform(form).equal(classifier.transform(path)) for form in forms)
    assert classifier.transform(io.BytesIO(content)).equal(classifier.transform(path))
    assert len(classifier.predict(image for image in forms)) == len(classifier.predict({path: path}.keys())) + 5
    assert classifier.transform(path).shape == (3, 32, 32)
    probabilities = classifier.predict_proba(forms)
    assert probabilities.dtype == np.float64
    assert (probabilities == probabilities[0]).all()
    assert (classifier.predict_proba(np.stack([array] * 3)) == probabilities[0]).all()
    features = classifier.embed(forms, batch_size=2)
    assert features.shape == (6, 256)
    assert features.dtype == np.float32


def test_wrong_images_are_refused(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.embed([]).shape == (0, 256)
    with pytest.raises(ValueError, match=r"uint8 \(h, w, 3\), not float64 \(8, 8, 3\)"):
        classifier.predict([np.zeros((8, 8, 3))])
    with pytest.raises(ValueError, match=r"uint8 \(3, h, w\)"):
        classifier.predict([torch.zeros(8, 8, 3, dtype=torch.uint8)])
    for single in (str(data), data, b"", np.zeros((8, 8, 3), dtype=np.uint8), {}, None):
        with pytest.raises(TypeError, match="pass several images"):
            classifier.predict(single)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="can't read these bytes"):
        classifier.predict([b"no image"])
    with pytest.raises(ValueError, match="top_k=0"):
        classifier.predict([data], top_k=0)
    with pytest.raises(TypeError, match="not int"):
        classifier.predict([1])  # type: ignore[list-item]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png"):
        classifier.predict([tmp_path / "broken.png"])
    with pytest.raises(ValueError, match="device='abacus'"):
        sl.load(checkpoint, device="abacus")
    with pytest.raises(ValueError, match="batch_size=0"):
        classifier.predict([data], batch_size=0)
    (data / "test/polo").mkdir()
    with pytest.raises(UserError, match="does not know class 'polo'"):
        classifier.evaluate(data / "test")


class InMemory:
    """A user's own dataset."""

    classes = ("tennis", "judo")
    labels = (0, 0, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        return np.full((40, 50, 3), 60 * index, dtype=np.uint8)


def test_predictions_leave_random_draws_as_they_are_and_run_in_threads(data: Path, checkpoint: Path) -> None:
    model = sl.load(checkpoint)
    images = [np.full((40, 40, 3), value, np.uint8) for value in (0, 90, 200)]
    state = torch.get_rng_state()
    expected = model.predict_proba(images)
    assert torch.equal(torch.get_rng_state(), state)
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    with ThreadPoolExecutor(4) as threads, torch.no_grad():
        found = [threads.submit(model.predict_proba, images) for _ in range(4)]
        other_found = [threads.submit(other, torch.zeros(1, 3, 8, 8)) for _ in range(200)]
        assert all(future.result() is not None for future in other_found)
        assert all((future.result() == expected).all() for future in found)


def test_one_opened_image_or_file_may_be_given_several_times(data: Path, checkpoint: Path) -> None:
    path = data / "test/judo/0.png"
    model = sl.load(checkpoint)
    (expected,) = model.predict_proba([path])
    assert (model.predict_proba([Image.open(path)] * 8) == expected).all()
    content = io.BytesIO(path.read_bytes())
    with path.open("rb", buffering=0) as raw:
        for image in (content, content, bytearray(path.read_bytes()), raw):
            assert (model.predict_proba([image]) == expected).all()


def test_outputs_that_are_no_numbers_are_refused(checkpoint: Path) -> None:
    model = sl.load(checkpoint)
    assert isinstance(model.classifier, Classifier)
    with torch.no_grad():
        next(model.classifier.net.parameters())[0] = float("nan")
    with pytest.raises(UserError, match="outputs are not numbers"):
        model.predict([np.zeros((40, 40, 3), np.uint8)])


@pytest.mark.parametrize("labels", [[-1, 0], [0, 3], [0]])
def test_labels_that_are_none_are_refused(checkpoint: Path, tmp_path: Path, labels: list[int]) -> None:
    source = SimpleNamespace(classes=CLASSES, labels=labels, image=lambda _: np.zeros((8, 8, 3), np.uint8))
    source_of_two = type(
        "Source", (), {**vars(source), "__len__": lambda _: 2, "image": lambda _, __: source.image(0)}
    )()
    with pytest.raises(UserError, match="label"):
        sl.load(checkpoint).evaluate(source_of_two)
    with pytest.raises(UserError, match="label"):
        write_splits({"train": source_of_two}, tmp_path / "written")


def test_an_interruption_is_that_of_the_keyboard() -> None:
    def interrupted() -> None:
        with quiet_lightning():
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                sys.exit(1)  # as Lightning does

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_dataset_may_know_fewer_classes_in_another_order(checkpoint: Path) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    evaluation = classifier.evaluate(InMemory())
    assert evaluation.labels.tolist() == [2, 2, 1]
    predicted = [CLASSES.index(p.label) for p in classifier.predict([InMemory().image(i) for i in range(3)])]
    assert evaluation.metrics["acc"] == sum(np.equal(predicted, [2, 2, 1])) / 3


def test_class_names_are_compared_in_normal_form_c(checkpoint: Path) -> None:
    classifier = sl.load(checkpoint, device="cpu")
    classifier.classifier.spec.classes[1] = "ski\u0308"  # decomposed
    source = InMemory()
    source.classes = ("tennis", "sk\u00ef")
    assert classifier.evaluate(source).labels.tolist() == [2, 2, 1]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The files of a finished run that these tests read."""
    folder = tmp_path / "runs/first"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text("seed: 0\n")
    (folder / ".hydra/hydra.yaml").write_text("hydra: {job: {config_name: train}}\n")
    (folder / "metrics.json").write_text('{"test": {"acc": 0.5, "loss": 1.0, "f1_macro": 0.5}}')
    provenance = {"best_epoch": 1, "predictions": "test", "data": {"test": {"count": 2, "fingerprint": "f"}}}
    (folder / "run.json").write_text(json.dumps(provenance))
    (folder / "metrics.csv").write_text("epoch,val/acc,train/acc\n0,0.25,\n1,0.5,0.75\n")
    header = "path,label,prediction,probability,top1,top1_probability\n"
    (folder / "predictions.csv").write_text(header + "a.jpg,1,1,0.9,1,0.9\nb.jpg,1,2,0.8,2,0.8\n")
    return folder


def test_a_run_folder_is_read(finished: Path) -> None:
    run = sl.open_run(finished)
    assert run.metrics["test"]["acc"] == 0.5
    assert run.config.seed == 0
    assert run.best == {"epoch": 1, "val/acc": 0.5, "train/acc": 0.75}
    assert run.epochs["val/acc"].tolist() == [0.25, 0.5]
    assert run.predictions["prediction"].tolist() == ["1", "2"], "a class name is text"
    assert run.predictions["probability"].tolist() == [0.9, 0.8]
    (finished / "metrics.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        sl.open_run(finished)
    with pytest.raises(UserError, match="not a run folder"):
        sl.open_run(finished.parent)


def test_a_run_of_evaluate_has_no_epochs(finished: Path) -> None:
    (finished / "metrics.csv").unlink()
    with pytest.raises(UserError, match="run of evaluate"):
        _ = sl.open_run(finished).epochs
    with pytest.raises(UserError, match="run of evaluate"):
        _ = sl.open_run(finished).best


def test_the_config_of_a_run_has_the_values_of_hydra(finished: Path) -> None:
    (finished / ".hydra/config.yaml").write_text("a: ${hydra:runtime.output_dir}/x\nb: ['${hydra:job.config_name}']\n")
    config = sl.open_run(finished).config
    assert (config.a, config.b) == (f"{finished}/x", ["train"])


def test_a_number_with_underscores_is_text() -> None:
    from sports_lightning.api.table import parse_numbers

    row = {"a": "1_000", "b": "7", "c": "0.5", "d": ""}
    assert parse_numbers(row) == {"a": "1_000", "b": 7, "c": 0.5, "d": None}


def test_tables_without_pandas_are_lists(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert sl.open_run(finished).epochs[0] == {"epoch": 0, "val/acc": 0.25, "train/acc": None}


def test_runs_are_compared(finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(finished, second := tmp_path / "runs/second")
    (second / ".hydra/config.yaml").write_text("seed: 1\n")
    comparison = sl.compare([sl.open_run(finished), second])
    assert [run.name for run in comparison.runs] == ["first", "second"]
    assert comparison.differing == ["seed"]
    assert comparison.pairings[0].result.p_value == 1
    (tmp_path / "runs/linked").symlink_to(finished)
    assert len(sl.compare([finished, tmp_path / "runs/linked", second]).runs) == 2, "a run under two names"
    (second / "metrics.json").unlink()
    assert len(sl.compare([finished, tmp_path / "runs"]).runs) == 1
    assert "second is left out: not finished" in caplog.text
    with pytest.raises(UserError, match="second cannot be compared: not finished"):
        sl.compare([finished, second])
    with pytest.raises(TypeError, match="sequence"):
        sl.compare(finished)
