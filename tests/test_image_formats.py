"""Image files of any format, name, mode and size: read by their content, or named with the reason."""

import io
import logging
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import TensorDataset

from image_lists import scan
from sports_lightning.audit.scan import find_leaks, why_leaks_are_unknown
from sports_lightning.data import formats
from sports_lightning.data.datamodule import build_loader
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decode import decode
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.image_folder import list_images
from sports_lightning.data.leftovers import describe_ignored
from sports_lightning.errors import UnreadableImage, UserError
from sports_lightning.predict.prediction import find_inputs
from sports_lightning.reports.html import thumbnail
from sports_lightning.split.thumbnails import read_thumbnails

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.fixture
def colors() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((42, 30), Image.Resampling.BICUBIC)


def as_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


KINDS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "MPO"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_is_recognized_by_content_and_decoded(kind: str, colors: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "no extension").write_bytes(as_bytes(colors, kind))
    (tmp_path / "other.xyz").write_bytes(as_bytes(colors, kind))
    names = list_images(tmp_path)
    assert names == ["no extension", "other.xyz"]
    assert [check.problem for check in check_files(tmp_path, names)] == ["", ""]
    difference = decode(tmp_path / names[0]).permute(1, 2, 0).numpy() - np.asarray(colors, dtype=np.float32)
    assert np.abs(difference).mean() < 25


def test_known_extensions_are_not_opened_and_other_files_are_counted(
    colors: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a.JPG", "b.jfif", "c.jpe", "d.avif", "e.heic", "f.HEIF", "g.tif", "h.webp"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    opened = []
    monkeypatch.setattr(formats, "_is_image", lambda start: opened.append(start))
    assert list_images(tmp_path) == names
    assert not opened
    monkeypatch.undo()
    for name, start in {"bm.txt": b"BMW", "p.txt": b"P5 is", "v.mp4": b"\0\0\0\x18ftypisom", "empty": b""}.items():
        (tmp_path / name).write_bytes(start)
    colors.save(tmp_path / "camera.NEF", "TIFF")
    (tmp_path / "loop").symlink_to(tmp_path)
    ignored: Counter[str] = Counter()
    assert list_images(tmp_path, ignored) == names
    assert describe_ignored(ignored) == "1 .mp4, 1 .nef, 2 .txt, 1 linked folder, 1 no extension"
    (only_text := tmp_path / "text").mkdir()
    (only_text / "a.txt").touch()
    with pytest.raises(UserError, match=r"matches no images \(1 \.txt\)"):
        find_inputs([str(only_text)])
    with caplog.at_level(logging.INFO):
        find_inputs([str(tmp_path)])
    assert "skipped: 1 .mp4, 1 .nef, 3 .txt" in caplog.text


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16B"])
def test_a_mode_that_can_be_checked_can_be_decoded(mode: str, colors: Image.Image, tmp_path: Path) -> None:
    image = colors.convert("L").convert("I;16").convert(mode) if mode == "I;16B" else colors.convert(mode)
    saved = 0
    for kind in ("PNG", "TIFF", "JPEG"):
        with suppress(OSError, KeyError):  # a format that does not have the mode
            (tmp_path / kind).write_bytes(as_bytes(image, kind))
            saved += 1
            assert check_files(tmp_path, [kind])[0].problem == ""
            assert decode(tmp_path / kind).shape == (3, 30, 42)
    assert saved


def test_damaged_exif_data_and_unknown_orientations_count_as_upright(colors: Image.Image, tmp_path: Path) -> None:
    plain = as_bytes(colors, "JPEG")
    contents = [plain[:2] + b"\xff\xe1\x00\x0fExif\0\0garbage" + plain[2:]]
    for turn in (0, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        contents.append(as_bytes(colors, "JPEG", exif=exif))
    for content in contents:
        (tmp_path / "a.jpg").write_bytes(content)
        assert check_files(tmp_path, ["a.jpg"])[0].problem == ""
        assert np.array_equal(decode(tmp_path / "a.jpg").permute(1, 2, 0), np.asarray(Image.open(io.BytesIO(plain))))


def test_heic_is_named_or_read_by_the_extra_whatever_the_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "phone.jpg").write_bytes(HEIC)
    (tmp_path / "phone").write_bytes(HEIC)
    assert list_images(tmp_path) == ["phone", "phone.jpg"]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    for name in ("phone", "phone.jpg"):
        assert check_files(tmp_path, [name])[0].problem.startswith(
            "HEIC, which needs pillow-heif: pip install -e '.[heic]'"
        )
        with pytest.raises(UnreadableImage, match=rf"{name} .* HEIC"):
            decode(tmp_path / name)

    open_image, red = Image.open, as_bytes(Image.new("RGB", (6, 5), "red"), "PNG")

    def register() -> None:
        monkeypatch.setattr(Image, "open", lambda _: open_image(io.BytesIO(red)))

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    assert check_files(tmp_path, ["phone.jpg"])[0].problem == ""
    assert decode(tmp_path / "phone.jpg")[:, 0, 0].tolist() == [255, 0, 0]


def test_a_tiff_that_pillow_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(as_bytes(Image.new("L", (4, 4)), "TIFF").replace(b"\x02\x01\x03", b"\x02\x01\x0c"))
    assert "TIFF" in check_files(tmp_path, ["a.tif"])[0].problem


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": 6}])
def test_a_large_jpeg_is_scaled_down_while_it_is_decoded(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "exif" in options:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = options["exif"]
        options = {"exif": exif}
    image = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    image.save(tmp_path / "a.jpg", **options)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    assert check_files(tmp_path, ["a.jpg"])[0].problem == ""
    for least in (None, 400):
        found = decode(tmp_path / "a.jpg", least)
        assert sorted(found.shape) == [3, 240, 320], "half of the size fits into the limit"
        assert found.float().mean() == pytest.approx(127, abs=2)
    assert read_thumbnails(tmp_path, ["a.jpg"]).size[0].tolist() == [640, 480]
    small = thumbnail(tmp_path / "a.jpg")
    assert small is not None
    assert max(small.size) == 160


def test_cached_pixels_belong_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.linear_gradient("L").resize((640, 480)).save(tmp_path / "train" / label / "1.jpg")
    split, shapes = Split(["train/a/1.jpg"], [0], ["digest"]), []
    for limit in (None, 200_000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        shapes.append(list(open_images(tmp_path, split, None, "disk", tmp_path / "cache")(0).shape))
        scan(tmp_path, tmp_path / "cache")
    assert shapes == [[3, 480, 640], [3, 240, 320]]
    assert len(list((tmp_path / "cache" / "scan").iterdir())) == 2


def test_images_beyond_the_limit_are_why_leaks_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label, size in (("a", (40, 40)), ("b", (8, 8))):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.linear_gradient("L").resize(size).save(tmp_path / "train" / label / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    whole = scan(tmp_path, tmp_path / "cache")
    for limit in (1000, 100):  # above twice the limit, Pillow itself raises an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        found = scan(tmp_path, tmp_path / "cache")
        assert find_leaks(found, "test", whole.fingerprint("train")) is None
        assert f"data.max_pixels={limit}: set the limit of the training" in why_leaks_are_unknown(found)
    assert "data.root does not hold" in why_leaks_are_unknown(whole)


def test_other_large_images_are_refused_with_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("L", (640, 480))
    for name, options in (("a.png", {}), ("b.webp", {}), ("c.tif", {}), ("d.jpg", {"progressive": True})):
        image.save(tmp_path / name, **options)
    names = sorted(path.name for path in tmp_path.iterdir())
    cache = tmp_path / "cache"
    now = formats.os.stat(tmp_path).st_mtime_ns + 60 * 10**9
    monkeypatch.setattr("time.time_ns", lambda: now)  # the files count as written a minute ago
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert not any(check.problem for check in check_files(tmp_path, names, cache))
    for limit in (100_000, 200_000):  # Pillow raises an error above twice its limit, and warns below
        formats.limit_pixels(limit)
        for name, check in zip(names, check_files(tmp_path, names, cache), strict=True):
            fits = name == "d.jpg" and limit == 200_000
            assert bool(check.problem) != fits, "the limit applies to images that the index knows, too"
            if not fits:
                assert f"pixels, more than data.max_pixels={limit}: set a larger limit" in check.problem
                with pytest.raises(UnreadableImage, match=r"data\.max_pixels"):
                    decode(tmp_path / name)


def test_a_worker_process_has_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_345)
    monkeypatch.setattr("sports_lightning.data.datamodule.ignore_signals", lambda _: None)
    loader = build_loader(TensorDataset(torch.zeros(1)), 1, 0, "cpu")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # as in a spawned process
    loader.worker_init_fn(0)  # type: ignore[misc]
    assert Image.MAX_IMAGE_PIXELS == 12_345
