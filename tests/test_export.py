"""Exported files answer as their checkpoint does; files that do not, or that `export` did not write, are refused."""

import csv
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from onnx import TensorProto, helper
from PIL import ExifTags, Image
from torch import Tensor, nn

import sports_lightning as sl
from commands import run_command, try_command
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.errors import UserError
from sports_lightning.export import parity
from sports_lightning.export.any_size import AnySizePreprocessing
from sports_lightning.export.parity_report import _write_card
from sports_lightning.export.timm_folder import _divide, write_timm
from sports_lightning.export.torch_file import export_program
from sports_lightning.inference.exported import _runs
from sports_lightning.models.classifier import Classifier, ClassifierSpec, build_classifier, load_classifier
from sports_lightning.runs.run_of_checkpoint import read_metrics

FILES = ["model.pt2", "model.onnx", "network.onnx", "model_int8.onnx", "openvino/model.xml", "timm"]


@settings(max_examples=60)
@given(
    size=st.sampled_from([(64, 64), (48, 80), (80, 48)]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    crop_pct=st.sampled_from([0.875, 0.9, 1.0]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    height=st.integers(1, 400),
    width=st.integers(1, 400),
)
def test_preprocessing_of_any_size_is_that_of_predict_to_the_bit(
    size: tuple[int, int], interpolation: str, crop_pct: float, crop_mode: str, height: int, width: int
) -> None:
    preprocessing = Preprocessing(size, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), interpolation, crop_pct, crop_mode)
    random = torch.Generator().manual_seed(height)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=random)
    found = AnySizePreprocessing(preprocessing)(image.permute(1, 2, 0)[None])[0]
    assert torch.equal(found, preprocessing.transform()(image).float())


def test_other_interpolations_are_refused() -> None:
    preprocessing = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3, "nearest", 1.0, "center")
    with pytest.raises(UserError, match="interpolation=nearest cannot be exported: bilinear and bicubic can"):
        AnySizePreprocessing(preprocessing)


@pytest.fixture(scope="module")
def exported(trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an export in every format. Tests must not change it."""
    folder = tmp_path_factory.mktemp("export") / "run"
    formats = "format=[onnx,torch,openvino,timm]"
    run_command("export", f"ckpt_path={trained[0]}", formats, "int8=true", f"hydra.run.dir={folder}")
    return folder


@pytest.fixture(scope="module")
def odd_images(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of odd sizes and modes, and one that is rotated by its EXIF data."""
    folder = tmp_path_factory.mktemp("odd")
    photo = Image.open(next((few / "test").rglob("*.jpg")))
    for i, side in enumerate([(20, 3000), (3000, 20), (1, 1), (333, 97), (64, 64), (1500, 1100)]):
        photo.resize(side).save(folder / f"{i}.png")
    photo.convert("L").save(folder / "gray.jpg")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo.resize((200, 120)).save(folder / "turned.jpg", exif=exif)
    return folder


def predictions(checkpoint: Path, images: Path, folder: Path, *overrides: str) -> list[dict[str, str]]:
    run_command("predict", f"ckpt_path={checkpoint}", str(images), f"hydra.run.dir={folder}", *overrides)
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_file_is_compared_with_its_checkpoint(exported: Path) -> None:
    report = json.loads((exported / "parity.json").read_text())
    assert [row["file"] for row in report["files"]] == FILES
    for row in report["files"]:
        assert (exported / row["file"]).exists()
        assert row["passes"]
        if row["file"] != "model_int8.onnx":
            assert row["difference"] < 1e-5
            assert row["top1_changes"] == 0
        assert (row["score_difference"] is None) == (row["file"] == "timm")
    assert all(name in (exported / "parity.html").read_text() for name in FILES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "network.onnx", "openvino/model.xml"])
def test_predict_and_evaluate_take_an_exported_file(
    trained: tuple[Path, str], exported: Path, odd_images: Path, tmp_path: Path, name: str
) -> None:
    settings = ("reject=0.2", "coverage=0.8")
    expected = predictions(trained[0], odd_images, tmp_path / "checkpoint", *settings)
    found = predictions(exported / name, odd_images, tmp_path / "file", *settings)
    for a, b in zip(expected, found, strict=True):
        assert a.keys() == b.keys()
        for column, value in a.items():
            if column in ("probability", "score") or column.endswith("_probability"):
                assert float(b[column]) == pytest.approx(float(value), abs=1e-4)
            else:
                assert b[column] == value
    run_command("evaluate", f"ckpt_path={exported / name}", f"hydra.run.dir={tmp_path / 'evaluated'}")
    metrics = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())["test"]
    before = json.loads((trained[0] / "metrics.json").read_text())["test"]
    assert metrics["acc"] == before["acc"]
    assert metrics["loss"] == pytest.approx(before["loss"], abs=1e-5)
    assert metrics["leaks"] == before["leaks"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "network.onnx", "openvino/model.xml"])
def test_an_exported_file_is_loaded_from_python(
    trained: tuple[Path, str], exported: Path, odd_images: Path, few: Path, tmp_path: Path, name: str
) -> None:
    expected = predictions(exported / name, odd_images, tmp_path / "command", "reject=0.2", "coverage=0.8")
    classifier = sl.load(exported / name)
    images = [row["path"] for row in expected]
    for row, found in zip(expected, classifier.predict(images, reject=0.2, coverage=0.8), strict=True):
        assert (row["prediction"], float(row["probability"])) == (found.label, found.probability)
        assert (float(row["score"]), json.loads(row["set"])) == (found.score, found.classes)
    assert classifier.evaluate(few / "test").metrics["acc"] == sl.load(trained[0]).evaluate(few / "test").metrics["acc"]
    with pytest.raises(UserError, match="an exported file has no features: load the checkpoint"):
        classifier.embed(images)


@pytest.mark.slow
def test_without_a_test_split_files_are_compared_on_val(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / split).symlink_to(few / split)
    result = run_command(
        "export", f"ckpt_path={trained[0]}", "format=[timm]", f"data.root={tmp_path / 'data'}", cwd=tmp_path
    )
    assert json.loads((Path(result.stdout.splitlines()[-1]) / "parity.json").read_text())["split"] == "val"


def test_metrics_are_those_of_the_best_checkpoint(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = trained[0] / "checkpoints"
    assert read_metrics(str(folder / "best.ckpt"))["test"]["acc"]
    assert read_metrics(str(folder / "last.ckpt")) == {}
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
        (tmp_path / "checkpoints/MODEL_CARD.md").write_text("accuracy 0.9")
        _write_card(tmp_path / "checkpoints" / name, "table", tmp_path)
        assert ("accuracy 0.9" in (tmp_path / "MODEL_CARD.md").read_text()) == (name == "best.ckpt")


@pytest.mark.parametrize("name", ["dpn48b", "levit_128s", "test_efficientnet"])
def test_the_temperature_is_part_of_any_head(tmp_path: Path, name: str) -> None:
    model = {"name": name, "pretrained": False, "weights": None, "image_size": None, "crop_mode": None, "arguments": {}}
    classifier = build_classifier(OmegaConf.create(model), ["a", "b", "c"], tmp_path)
    classifier.spec = dataclasses.replace(classifier.spec, temperature=0.3)
    write_timm(classifier, tmp_path / "timm")
    images = torch.randint(0, 256, (2, 3, *classifier.spec.preprocessing["size"]), dtype=torch.uint8)
    network = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    mean, std = (torch.tensor(classifier.spec.preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        assert torch.allclose(network((images / 255 - mean) / std), classifier.eval()(images), atol=1e-4)


def test_a_head_without_a_last_layer_takes_no_temperature() -> None:
    with pytest.raises(UserError, match="calibrate=false"):
        _divide([torch.nn.Identity()], 0.5)


def test_large_images_are_run_in_smaller_batches() -> None:
    images = [torch.zeros(1000, 1500, 3, dtype=torch.uint8)] * 5 + [torch.zeros(100, 100, 3, dtype=torch.uint8)] * 5
    assert [len(batch) for batch in _runs(((image, True) for image in images), 32)] == [2, 2, 1, 5]


@pytest.mark.slow
def test_the_files_have_the_documented_inputs_and_outputs(exported: Path, trained: tuple[Path, str]) -> None:
    model = onnx.load(exported / "model.onnx")
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["probabilities", "score"]
    described = json.loads(model.metadata_props[0].value)
    assert described["spec"]["classes"] == sl.load(trained[0]).classes
    assert described["metrics"]["test"]["ci95"]["acc"]
    quantized = onnx.load(exported / "model_int8.onnx")
    assert json.loads(quantized.metadata_props[0].value)["metrics"] == {}, "its own are in parity.json"
    images = torch.randint(0, 256, (3, 90, 130, 3), dtype=torch.uint8)
    probabilities, score = torch.export.load(exported / "model.pt2").module()(images)
    assert probabilities.shape == (3, len(described["spec"]["classes"]))
    assert score.shape == (3,)
    expected = sl.load(trained[0]).predict_proba(list(images.numpy()))
    assert np.abs(probabilities.detach().numpy() - expected).max() < 1e-5
    network = timm.create_model(f"local-dir:{exported / 'timm'}", pretrained=True)
    config = json.loads((exported / "timm" / "config.json").read_text())
    assert config["label_names"] == described["spec"]["classes"]
    assert list(network.pretrained_cfg["input_size"][1:]) == described["spec"]["preprocessing"]["size"]


@pytest.mark.slow
def test_a_file_that_differs_is_deleted_and_the_command_fails(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "LARGEST_DIFFERENCE", -1.0)
    arguments = (f"ckpt_path={trained[0]}", "format=[timm]", f"hydra.run.dir={tmp_path / 'run'}")
    result = try_command("export", *arguments)
    assert result.status != 0
    assert "not kept, because of other answers: timm by up to" in result.stderr
    assert not (tmp_path / "run" / "timm").exists()
    assert (tmp_path / "run" / "parity.html").exists()
    run_command("export", *arguments, "allow_difference=true")
    assert (tmp_path / "run" / "timm" / "model.safetensors").exists()


class Deciding(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) if images.sum() > 0 else images.amax(dim=(2, 3))


@pytest.mark.slow
def test_an_architecture_that_cannot_be_exported_is_one_line() -> None:
    preprocessing = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")
    spec = ClassifierSpec("deciding", {}, ["a", "b", "c"], preprocessing.to_dict(), "")
    with pytest.raises(UserError, match=r"^deciding cannot be exported: "):
        export_program(Classifier(Deciding(), spec), any_size=True)


@pytest.mark.parametrize(
    "setting", ["format=[onnx,tflite]", "format=[]", "int8=maybe", "inference.precision=bf16-mixed"]
)
def test_impossible_settings_are_one_line(trained: tuple[Path, str], tmp_path: Path, setting: str) -> None:
    result = try_command("export", f"ckpt_path={trained[0]}", setting, f"hydra.run.dir={tmp_path / 'run'}")
    assert result.status != 0
    assert setting.split("=")[0] in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "run").glob("*.onnx"))


def test_a_missing_package_is_named_before_any_work(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else find(name, *a))
    result = try_command("export", f"ckpt_path={trained[0]}", "format=openvino", f"hydra.run.dir={tmp_path / 'run'}")
    assert "format=openvino needs openvino: pip install -e '.[openvino]'" in result.stderr


def foreign() -> bytes:
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [shape], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return model


@pytest.mark.parametrize(("content", "why"), [(b"not onnx", "is damaged"), (foreign(), "was not written by")])
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_foreign_and_damaged_files_are_one_line(few: Path, tmp_path: Path, content: bytes, why: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    result = try_command("predict", f"ckpt_path={tmp_path / name}", str(few / "test"))
    assert result.status != 0
    lines = result.stderr.strip().splitlines()
    assert why in lines[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_tampered_file_is_one_line(exported: Path, few: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "network.onnx")
    broken = onnx.ModelProto.FromString(model.SerializeToString())
    value = json.loads(broken.metadata_props[0].value)
    value["spec"]["classes"] = value["spec"]["classes"][1:]
    broken.metadata_props[0].value = json.dumps(value)
    onnx.save(broken, tmp_path / "model.onnx")
    result = try_command("predict", f"ckpt_path={tmp_path / 'model.onnx'}", str(few / "test"))
    assert "does not have the outputs that its metadata describe" in result.stderr
    described = json.loads(model.metadata_props[0].value)
    described["spec"]["classes"] = 5
    for value in (json.dumps(described), "{}", "["):
        model.metadata_props[0].value = value
        onnx.save(model, tmp_path / "model.onnx")
        result = try_command("predict", f"ckpt_path={tmp_path / 'model.onnx'}", str(few / "test"))
        assert result.status != 0
        assert "damaged metadata; export the checkpoint again" in result.stderr


@pytest.mark.parametrize(
    ("setting", "why"),
    [("inference.flip_tta=true", "is for checkpoints"), ("save=[features]", "has no features")],
)
@pytest.mark.slow
def test_what_a_file_cannot_do_is_one_line(exported: Path, few: Path, setting: str, why: str) -> None:
    result = try_command("predict", f"ckpt_path={exported / 'model.onnx'}", str(few / "test"), setting)
    assert result.status != 0
    assert why in result.stderr


def test_an_export_is_not_exported_again(trained: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    result = try_command("export", f"ckpt_path={tmp_path / 'model.onnx'}")
    assert "is exported already: pass the checkpoint" in result.stderr
    assert load_classifier(trained[0]).rejection is not None
