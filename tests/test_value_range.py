"""Images of 16 and 32 bits: one range of values per dataset, stored in the checkpoint and applied by every command."""

import json
import logging
import os
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import ExifTags, Image

from commands import run_command, try_command
from conftest import assert_error_line, composed
from image_lists import Sequenced, data_settings, scan
from sports_lightning.api.dataset_folder import _write_images
from sports_lightning.api.image_classifier import ImageClassifier, ImageTransform
from sports_lightning.api.image_inputs import check_depth
from sports_lightning.data.decode import decode
from sports_lightning.data.file_hashes import FileCheck, check_files
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.value_range import choose_value_range, value_range_for_checkpoint
from sports_lightning.errors import UnreadableImage, UserError
from sports_lightning.models.classifier import build_classifier, load_classifier
from sports_lightning.predict.prediction import _set_value_range, predict_images
from sports_lightning.runs.layout import missing_decorations
from sports_lightning.split.dataset import _value_range, open_dataset
from sports_lightning.storage.files import read_csv

QUICK = ["data=folder", "model=scratch_cnn", "model.image_size=32", "logger=csv", "data.num_workers=0"]
QUICK += ["data.batch_size=8", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.precision=32-true"]


def check(kind: str, low: float, high: float) -> FileCheck:
    return FileCheck("digest", "", 1, kind, low, high)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([check("", 0, 0)], None),
        ([check("integer", 0, 200)], (0, 255)),
        ([check("integer", 3, 900), check("", 0, 0)], (0, 1023)),
        ([check("integer", 0, 256), check("integer", 0, 4095)], (0, 4095)),
        ([check("integer", 0, 4096)], (0, 16383)),
        ([check("integer", 0, 16384)], (0, 65535)),
        ([check("integer", 0, 65536)], "integer images with values from 0 to 65536"),
        ([check("integer", -1, 5)], "from -1 to 5"),
        ([check("floating-point", 0, 0.3), check("floating-point", 0.5, 1)], (0, 1)),
        ([check("floating-point", 0, 254.5)], (0, 255)),
        ([check("floating-point", 0, 1), check("floating-point", 0, 1.004)], (0, 1)),
        ([check("floating-point", 0, 1.2)], "from 0 to 1.2"),
        ([check("floating-point", 0, 15)], "data.value_range"),
        ([check("floating-point", 0, 16)], (0, 255)),
        ([check("floating-point", 0, 258.5)], (0, 255)),
        ([check("floating-point", 0, 65_600)], (0, 65535)),
        ([check("floating-point", -0.5, 1)], "data.value_range"),
        ([check("floating-point", 0, 1), check("integer", 0, 255)], "floating-point and integer"),
        ([check("color", 0, 65535)], None),
        ([check("color", 0, 4095)], "16-bit color images .* up to 4095"),
    ],
)
def test_the_range_of_a_dataset(checks: list[FileCheck], expected: tuple[float, float] | str | None) -> None:
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            choose_value_range("auto", checks, "it")
        assert choose_value_range([0, 65535], checks, "it") == (0, 65535)
        if checks[0].high_depth == "color":
            with pytest.raises(UserError, match="16-bit color"):
                choose_value_range([0, 4095], checks, "it")
        else:
            assert choose_value_range([0, 9], checks, "it") == (0, 9)
    else:
        assert choose_value_range("auto", checks, "it") == expected


def test_a_range_that_was_found_is_warned_of_too(caplog: pytest.LogCaptureFixture) -> None:
    choose_value_range("auto", [check("floating-point", 0, 1), check("floating-point", 0, 1.004)], "it")
    assert "1 images in it hold values outside of 0 to 1, which are clipped" in caplog.text
    choose_value_range("auto", [check("integer", 0, 9)], "it")
    assert "nearly black" in caplog.text
    with pytest.raises(UserError, match=r"set data.value_range=\[0,1\]"):
        value_range_for_checkpoint(None, "auto", [check("floating-point", 0, 1.004)], "it")


def test_a_checkpoint_keeps_its_range_and_says_where_it_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    twelve_bits = [check("integer", 0, 4000)]
    assert value_range_for_checkpoint((0, 4095), "auto", twelve_bits, "it") == (0, 4095)
    assert value_range_for_checkpoint((0, 255), [0, 4095], twelve_bits, "it") == (0, 4095)
    assert not caplog.messages
    value_range_for_checkpoint((0, 1), "auto", twelve_bits, "it")
    assert "1 images in it hold values outside of 0 to 1" in caplog.text
    value_range_for_checkpoint((0, 65535), "auto", twelve_bits, "it")
    assert "nearly black" in caplog.text
    assert value_range_for_checkpoint(None, "auto", [check("integer", 0, 60_000)], "it") == (0, 65535)
    assert value_range_for_checkpoint(None, "auto", [check("", 0, 0)], "it") is None
    with pytest.raises(UserError, match=r"set data.value_range=\[0,4095\]"):
        value_range_for_checkpoint(None, "auto", twelve_bits, "it")


def test_predict_refuses_only_the_kinds_of_images_that_have_no_range(tmp_path: Path) -> None:
    model = {"name": "scratch_cnn", "pretrained": False, "weights": None, "image_size": None, "crop_mode": None}
    classifier = build_classifier(OmegaConf.create(model | {"arguments": {}}), ["a", "b"], tmp_path)
    checks = {"a": check("integer", 0, 60_000), "b": check("floating-point", 0, 1), "c": check("", 0, 0)}
    assert list(_set_value_range(classifier, "auto", checks)) == ["b"]
    assert classifier.preprocessing.value_range == (0, 65535)
    assert not _set_value_range(classifier, [0, 1], checks)
    assert classifier.preprocessing.value_range == (0, 1)


@pytest.mark.parametrize(
    ("dtype", "name", "value_range"),
    [
        (np.uint16, "a.png", (0, 4095)),
        (np.uint16, "a.png", None),  # 0..65535, as in earlier versions
        (">u2", "a.tif", (0, 65535)),
        (np.int32, "a.tif", (-100, 4000)),
        (np.float32, "a.tif", (0, 1)),
    ],
)
def test_the_brightness_of_an_image(
    dtype: type, name: str, value_range: tuple[float, float] | None, tmp_path: Path
) -> None:
    low, high = value_range or (0, 65535)
    values = np.linspace(low, high, 16).reshape(4, 4).astype(dtype)
    save(tmp_path / name, values)
    expected = np.floor((values.astype(np.float64) - low) * 255 / (high - low))
    image = decode(tmp_path / name, 448, value_range).numpy()
    assert np.abs(image - expected).max() <= 1, "float32 may round down once more"
    assert image.min() == 0
    assert image.max() == 255
    (found,) = check_files(tmp_path, [name])
    assert (found.low, found.high) == (values.min(), values.max())


def save_tiff(path: Path, values: np.ndarray, photometric: int, sample_format: int) -> Path:
    """An uncompressed gray TIFF, written by hand because Pillow writes neither uint32 nor int8."""
    values = np.ascontiguousarray(values)
    tags = [(256, 4, values.shape[1]), (257, 4, values.shape[0]), (258, 3, values.itemsize * 8), (259, 3, 1)]
    tags += [(262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 4, values.shape[0]), (279, 4, values.nbytes)]
    tags += [(339, 3, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes() + directory)
    return path


def test_white_and_signs_as_a_tiff_has_them(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 16).reshape(4, 4)
    for dtype, scale in ((np.uint16, 1), (np.float32, 1 / 4095)):
        pixels = (values * scale).astype(dtype)
        kind = 3 if dtype is np.float32 else 1
        normal, inverted = (save_tiff(tmp_path / f"{p}.tif", pixels, p, kind) for p in (1, 0))
        value_range = (0, 4095 * scale)
        right = decode(normal, None, value_range)
        assert (decode(inverted, None, value_range) == 255 - right).all()
        with Image.open(inverted) as opened:
            _write_images(Sequenced([opened]), tmp_path / f"written{kind}")
        assert (decode(tmp_path / f"written{kind}/a/00000000.tif", None, value_range) == 255 - right).all()

    high = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    save_tiff(tmp_path / "u32.tif", high, 1, 1)
    (found,) = check_files(tmp_path, ["u32.tif"])
    assert (found.low, found.high) == (0, 2**32 - 1)
    assert decode(tmp_path / "u32.tif", None, (0, 2**32 - 1))[0].tolist() == [[0, 127, 255]]
    save_tiff(tmp_path / "i32.tif", np.array([[-5, 5]], np.int32), 1, 2)
    assert check_files(tmp_path, ["i32.tif"])[0].low == -5

    signed = save_tiff(tmp_path / "i8.tif", np.array([[-128, 127]], np.int8), 1, 2)
    assert "signed 8-bit" in check_files(tmp_path, ["i8.tif"])[0].problem
    with pytest.raises(UnreadableImage, match="signed 8-bit"):
        decode(signed)
    assert decode(save_tiff(tmp_path / "u8.tif", np.array([[0, 255]], np.uint8), 1, 1)).unique().tolist() == [0, 255]


@pytest.mark.parametrize("color_type", [2, 4, 6])  # RGB, gray and alpha, RGBA
@pytest.mark.parametrize("highest", [4095, 65535])
def test_alpha_does_not_hide_12_bits_in_16(color_type: int, highest: int, tmp_path: Path) -> None:
    values = np.full((4, 4, {2: 3, 4: 2, 6: 4}[color_type]), highest, ">u2")
    if color_type != 2:
        values[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, color_type, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    png = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    if color_type == 2:
        (tmp_path / "a.ppm").write_bytes(b"P6 4 4 65535\n" + values.tobytes())
        assert check_files(tmp_path, ["a.ppm"])[0].high == pytest.approx(highest, abs=256), "Pillow rounds"
    checks = check_files(tmp_path, ["a.png"])
    assert (checks[0].high_depth, checks[0].high) == ("color", highest)
    if highest == 65535:
        assert choose_value_range("auto", checks, "it") is None
    else:
        with pytest.raises(UserError, match=r"16-bit color images .* up to 4095"):
            choose_value_range("auto", checks, "it")


def test_pixels_without_a_brightness(tmp_path: Path) -> None:
    save(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    save(tmp_path / "float.tif", np.full((4, 4), 0.5, np.float32))
    assert "not a number" in check_files(tmp_path, ["nan.tif"])[0].problem
    with pytest.raises(UnreadableImage, match="not a number"):
        decode(tmp_path / "nan.tif", None, (0, 1))
    with pytest.raises(UnreadableImage, match=r"32-bit floating-point .* set data.value_range"):
        decode(tmp_path / "float.tif")


def test_a_source_of_the_api_keeps_16_and_32_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 4000, 12).reshape(3, 4)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    save(tmp_path / "16.png", values.astype(np.uint16))
    with Image.open(tmp_path / "16.png") as image:
        image.save(tmp_path / "turned.png", exif=turned)
    arrays = [values.astype(dtype) for dtype in (np.uint16, np.int32, np.float32)]
    images = [Image.open(tmp_path / "turned.png"), *map(Image.fromarray, arrays), Image.new("L", (4, 3), 9)]
    _write_images(Sequenced(images), tmp_path / "written")
    found = sorted((tmp_path / "written" / "a").iterdir())
    assert [path.name for path in found] == [f"0000000{i}.{'tif' if i < 4 else 'png'}" for i in range(5)]
    written = [np.asarray(Image.open(path)) for path in found]
    assert (written[0] == np.rot90(arrays[0], -1)).all()
    assert all((one == array).all() for one, array in zip(written[1:], arrays, strict=False))
    assert [check.high for check in check_files(tmp_path / "written" / "a", [path.name for path in found])][:4] == [
        4000
    ] * 4


def test_the_api_refuses_a_brightness_that_the_model_cannot_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"8": np.full((8, 8), 99, np.uint8), "12": np.full((8, 8), 4000, np.uint16)}
    values |= {"16": np.full((8, 8), 60_000, np.uint16), "32": np.full((8, 8), 0.5, np.float32)}
    for name, pixels in values.items():
        save(tmp_path / f"{name}.tif", pixels)
    (tmp_path / "broken.tif").write_bytes(b"no image")
    eight, twelve, sixteen, floating, broken = (tmp_path / f"{name}.tif" for name in (*values, "broken"))
    trained_on_8 = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0, "center")
    for images in ([eight], [sixteen], [broken, str(sixteen)], [np.zeros((8, 8, 3), np.uint8)]):
        check_depth(images, trained_on_8)
    for images in ([eight, str(twelve)], [sixteen, twelve], [twelve.read_bytes()], (Image.open(twelve),), [floating]):
        with pytest.raises(UserError, match=r"the input has images with values up to .*convert them to 8 bits"):
            check_depth(images, trained_on_8)
    assert not caplog.messages
    check_depth([twelve, sixteen], replace(trained_on_8, value_range=(0.0, 4095.0)))
    assert "1 images in the input hold values outside of 0 to 4095" in caplog.text
    model = {"name": "scratch_cnn", "pretrained": False, "weights": None, "image_size": 32, "crop_mode": None}
    classifier = ImageClassifier(
        build_classifier(OmegaConf.create(model | {"arguments": {}}), ["a", "b"], tmp_path), "cpu"
    )
    with pytest.raises(UserError, match="the input has images"):
        classifier.predict(path for path in [eight, twelve])
    save(tmp_path / "folder" / "a" / "1.png", values["12"])
    with pytest.raises(UserError, match="the input has images"):
        classifier.evaluate(tmp_path / "folder")


def test_an_answer_depends_on_no_other_image_of_the_input(tmp_path: Path, trained: tuple[Path, str]) -> None:
    values = {"12": np.full((8, 8), 4000, np.uint16), "16": np.full((8, 8), 60_000, np.uint16)}
    values["32"] = np.full((8, 8), 1e6, np.int32)
    paths = {name: str(tmp_path / f"{name}.tif") for name in values}
    for name, pixels in values.items():
        save(Path(paths[name]), pixels)
    checkpoint = trained[0] / "checkpoints/best.ckpt"
    inference = composed(tmp_path).inference
    both = predict_images(load_classifier(checkpoint), list(paths.values()), inference)
    assert both is not None
    assert both.paths == [paths["16"]]
    assert "the image has images with values up to 4000" in both.unreadable[paths["12"]]
    with pytest.raises(UserError, match=r"none of the 2 files can be read as an image; .*12\.tif: "):
        predict_images(load_classifier(checkpoint), [paths["12"], paths["32"]], inference)
    nothing = predict_images(load_classifier(checkpoint), [paths["12"]], inference, may_be_empty=True)
    assert nothing is not None
    assert (nothing.paths, list(nothing.unreadable)) == ([], [paths["12"]])


def test_arrays_of_the_api() -> None:
    transform = ImageTransform(Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0, "center"))
    no_pixels = [np.zeros((0, 10, 3), np.uint8), torch.zeros(3, 0, 10, dtype=torch.uint8), Image.new("RGB", (10, 0))]
    for image in no_pixels:
        with pytest.raises(ValueError, match="0×10"):
            transform(image)
    with pytest.raises(ValueError, match=r"convert the image to 8 bits or, in a command"):
        transform(Image.new("F", (4, 4)))
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    expected = transform(pixels)
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (transform(pixels) == expected).all()


def test_the_audit_scales_by_the_same_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, split in enumerate(("train", "valid")):
        for label in "ab":
            save(tmp_path / split / label / "1.png", np.full((64, 64), (1000, 4000)[i], np.uint16))
    settings = data_settings(tmp_path, max_pixels=None)
    for _ in range(2):  # read, then taken from the index of file hashes
        with caplog.at_level(logging.INFO):
            assert open_dataset(settings, ["train", "val"]).value_range == (0, 4095)
    assert "0 is black, 4095 is white" in caplog.text
    assert scan(tmp_path, tmp_path / "cache").thumbnails.small[:, 0, 0].tolist() == [62, 62, 249, 249]
    save(tmp_path / "test" / "a" / "1.png", np.full((64, 64), 60_000, np.uint16))
    assert scan(tmp_path, tmp_path / "cache").value_range == (0, 4095), "that of a training"
    save(tmp_path / "train" / "a" / "2.tif", np.full((64, 64), 0.5, np.float32))
    found = scan(tmp_path, tmp_path / "cache")
    assert "floating-point and integer images" in caplog.text
    assert found.value_range is None
    assert scan(tmp_path, tmp_path / "cache", [0, 2000]).thumbnails.small[-1, 0, 0] == 255


def test_the_range_does_not_depend_on_the_test_images(caplog: pytest.LogCaptureFixture) -> None:
    eight, twelve, sixteen = check("", 0, 0), check("integer", 0, 4000), check("integer", 0, 60_000)
    dark, bright = check("color", 0, 4095), check("color", 0, 65535)

    def chosen(train: FileCheck, *test: FileCheck) -> tuple[float, float] | None:
        return _value_range(
            "auto", {"train": [train], "val": [train], "test": list(test)}, choose_value_range, Path("it"), "it/test"
        )

    assert _value_range("auto", {"train": [twelve], "val": [twelve]}, choose_value_range, Path("it"), "it/test") == (
        0,
        4095,
    )
    assert chosen(twelve, twelve) == (0, 4095)
    assert not caplog.messages
    assert chosen(twelve, sixteen) == (0, 4095)
    assert "1 images in it/test hold values outside of 0 to 4095, which are clipped" in caplog.text
    caplog.clear()
    assert chosen(sixteen, twelve, sixteen) == chosen(eight, sixteen) == (0, 65535)
    assert chosen(eight, eight) is chosen(bright, dark) is None
    assert not caplog.messages
    for train, test in ((eight, twelve), (eight, dark)):
        with pytest.raises(UserError, match=r"it/test .* data\.value_range="):
            chosen(train, test)
    assert _value_range("auto", {"test": [twelve]}, choose_value_range, Path("it"), "it/test") == (0, 4095), (
        "of `evaluate`"
    )


@pytest.mark.slow
def test_train_stores_the_range_and_other_commands_apply_it_whatever_the_classes_are_called(tmp_path: Path) -> None:
    latin = os.fsdecode(b"l\xe9ger")  # not UTF-8, as in old archives
    for split in ("train", "valid", "test"):
        for label, part in (("dark", 0.3), (latin, 0.9)):
            for i in range(4):
                save(tmp_path / "float" / split / label / f"{i}.tiff", np.full((32, 32), part - i / 50, np.float32))
    run_command("train", *QUICK, "data.root=float", "hydra.run.dir=run", "augment=none")
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    preprocessing = load_classifier(checkpoint).preprocessing
    assert preprocessing.value_range == (0, 1)
    transform = ImageTransform(preprocessing)
    image = tmp_path / "float/test" / latin / "0.tiff"
    assert transform(image).unique().tolist() == [229]
    with Image.open(image) as opened:
        assert transform(opened).unique().tolist() == [229]

    run_command("predict", f"ckpt_path={checkpoint}", "float/test", "hydra.run.dir=predicted")
    run_command("evaluate", f"ckpt_path={checkpoint}", "hydra.run.dir=evaluated")
    run_command("compare", "run", "evaluated", "hydra.run.dir=compared")
    run_command("audit", "data=folder", "data.root=float", "hydra.run.dir=audited")
    assert not missing_decorations(tmp_path / "run")
    for file in ("run/per_class.csv", "run/report.html", "predicted/predictions.csv", "audited/audit.html"):
        assert "l\\udce9ger" in (tmp_path / file).read_text(encoding="utf-8"), "escaped"
    assert len(json.loads((tmp_path / "compared/compare.json").read_text())["runs"]) == 2
    predicted, evaluated, trained = (
        [row["top1_probability"] for row in read_csv(tmp_path / folder / "predictions.csv")]
        for folder in ("predicted", "evaluated", "run")
    )
    assert len(predicted) == 8
    assert predicted == evaluated == trained
    with Image.open(tmp_path / "predicted/predictions.png") as grid:
        assert grid.getpixel((115, 160)) == (76, 76, 76, 255), "the first tile, of brightness 0.3"
    result = try_command("predict", f"ckpt_path={checkpoint}", "float/test", "data.value_range=[1,0]")
    assert_error_line(result, "data.value_range=[1, 0]", "[0,4095]")
