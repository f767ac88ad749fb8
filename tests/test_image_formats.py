"""Image files of any format, name, mode and size: read by their content, or named with the reason."""

import io
import logging
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import TensorDataset

from commands import run_command
from icc_profiles import DISPLAY_P3, cmyk_profile, gray_profile, rgb_profile
from image_lists import scan
from sports_lightning.api.image_classifier import load
from sports_lightning.audit.findings import collect_findings, summary, write_findings
from sports_lightning.audit.scan import find_leaks, why_leaks_are_unknown
from sports_lightning.data import formats
from sports_lightning.data.datamodule import build_loader
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decode import decode
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.data.file_hashes import check_files, report_first_images
from sports_lightning.data.image_folder import list_images
from sports_lightning.data.leftovers import describe_ignored
from sports_lightning.data.value_range import choose_value_range
from sports_lightning.errors import UnreadableImage, UserError
from sports_lightning.predict.inputs import find_inputs
from sports_lightning.reports.html import thumbnail
from sports_lightning.split.thumbnails import read_thumbnails
from sports_lightning.storage.files import read_csv

pillow_heif.register_heif_opener()  # also writes

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
        assert str(tmp_path / "v.mp4") in find_inputs([str(tmp_path)])
        assert len(find_inputs([str(tmp_path), f"{tmp_path}/.", f"{tmp_path}//v.mp4"])) == len(
            find_inputs([str(tmp_path)])
        ), "each once"
    assert "skipped: 1 .nef, 3 .txt" in caplog.text


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


def test_heic_without_its_library_is_named_whatever_the_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "phone.jpg").write_bytes(HEIC)
    (tmp_path / "phone").write_bytes(HEIC)
    assert list_images(tmp_path) == ["phone", "phone.jpg"]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    for name in ("phone", "phone.jpg"):
        problem = check_files(tmp_path, [name])[0].problem
        assert problem == "HEIC, which needs pillow-heif: pip install pillow-heif, or convert it to JPEG"
        with pytest.raises(UnreadableImage, match=rf"{name} .* HEIC"):
            decode(tmp_path / name)


PHONE_NAMES = ["a.heic", "a.HIF", "a.avif", "a.png", "a.jpg", "a.tif", "without extension", "a.webp", "a.xyz"]


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_photo_of_a_phone_under_any_name(kind: str, turn: int, tmp_path: Path) -> None:
    corners = {(0, 0): (220, 30, 30), (40, 0): (30, 220, 30), (0, 24): (30, 30, 220), (40, 24): (220, 220, 220)}
    image = Image.new("RGB", (80, 48))
    for corner, color in corners.items():
        image.paste(color, (*corner, corner[0] + 40, corner[1] + 24))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    content = as_bytes(image, kind, quality=90, exif=exif.tobytes())
    for name in PHONE_NAMES:
        (tmp_path / name).write_bytes(content)
    assert list_images(tmp_path) == sorted(PHONE_NAMES)
    expected = np.rot90(np.asarray(image), {1: 0, 3: 2, 6: 3, 8: 1}[turn])
    for name, check in zip(PHONE_NAMES, check_files(tmp_path, PHONE_NAMES), strict=True):
        assert (check.problem, check.pixels, check.has_more) == ("", 80 * 48, False)
        found = decode(tmp_path / name).permute(1, 2, 0).numpy()
        assert found.shape == expected.shape
        difference = np.abs(found - expected.astype(float))
        assert difference.mean() < 3, "the pixels of a lossy format"
        assert np.quantile(difference, 0.9) <= 8


@pytest.mark.parametrize("bits", [10, 12])
def test_the_brightness_of_heic_with_more_bits(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    part = np.linspace(0, 1, 64).reshape(8, 8).repeat(8, 0).repeat(8, 1)
    values = np.round(part * 65535).astype(np.uint16)[..., None].repeat(3, 2)
    pillow_heif.from_bytes("RGB;16", (64, 64), values.tobytes()).save(tmp_path / "a.heic", quality=100)
    with Image.open(tmp_path / "a.heic") as image:
        assert image.info["bit_depth"] == bits
    assert np.abs(decode(tmp_path / "a.heic").numpy() - part * 255).max() <= 2


@pytest.mark.parametrize("kind", ["12-bit PGM", "12-bit PPM", "12 bits in PNG", "PFM", "float TIFF", "JPEG 2000"])
def test_brightness_is_the_known_one(kind: str, tmp_path: Path) -> None:
    part = np.linspace(0, 1, 64).reshape(8, 8).repeat(4, 0).repeat(4, 1)
    of_12, of_16 = (np.round(part * white).astype(np.uint16) for white in (4095, 65535))
    content = {
        "12-bit PGM": lambda: b"P5 32 32 4095\n" + of_12.astype(">u2").tobytes(),
        "12-bit PPM": lambda: b"P6 32 32 4095\n" + of_12[..., None].repeat(3, 2).astype(">u2").tobytes(),
        "12 bits in PNG": lambda: as_bytes(Image.fromarray(of_12), "PNG"),
        "PFM": lambda: b"Pf\n32 32\n-1.0\n" + part[::-1].astype("<f4").tobytes(),
        "float TIFF": lambda: as_bytes(Image.fromarray(part.astype(np.float32)), "TIFF"),
        "JPEG 2000": lambda: as_bytes(Image.fromarray(of_16), "JPEG2000"),
    }[kind]()
    (tmp_path / "without extension").write_bytes(content)
    assert list_images(tmp_path) == ["without extension"]
    value_range = choose_value_range("auto", check_files(tmp_path, ["without extension"]), "it")
    found = decode(tmp_path / "without extension", None, value_range).numpy()
    assert np.abs(found - part * 255).max() <= 1


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_truncated_photo_of_a_phone_is_unreadable(kind: str, colors: Image.Image, tmp_path: Path) -> None:
    options = {"thumbnails": [64]} if kind == "HEIF" else {}
    content = as_bytes(colors.resize((420, 300)), kind, **options)
    (tmp_path / "whole.heic").write_bytes(content)
    (tmp_path / "part.heic").write_bytes(content[: len(content) * 2 // 3])
    whole, part = check_files(tmp_path, ["whole.heic", "part.heic"])
    assert whole.problem == ""
    assert part.problem
    with pytest.raises(UnreadableImage):
        decode(tmp_path / "part.heic")


def frames_of(kind: str, colors: Image.Image) -> bytes:
    """A file whose first of three images is `colors`."""
    others = [Image.new("RGB", colors.size, color) for color in ("red", "blue")]
    exact = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    return as_bytes(colors, kind, save_all=True, append_images=others, **exact)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF"])
def test_the_first_image_of_several_is_used_and_said(
    kind: str, colors: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").write_bytes(frames_of(kind, colors))
    (tmp_path / "b").write_bytes(as_bytes(colors, kind))
    assert np.abs(decode(tmp_path / "a").permute(1, 2, 0) - np.asarray(colors, dtype=float)).mean() < 25
    now = formats.os.stat(tmp_path).st_mtime_ns + 60 * 10**9
    monkeypatch.setattr("time.time_ns", lambda: now)  # the files count as written a minute ago
    for _ in range(2):  # read, then known to the index
        checks = check_files(tmp_path, ["a", "b"], tmp_path / "cache")
        assert [check.has_more for check in checks] == [True, False]
        assert [check.problem for check in checks] == ["", ""]
        monkeypatch.setattr("sports_lightning.data.file_hashes._read", None)
    with caplog.at_level(logging.INFO):
        report_first_images(checks)
        report_first_images(checks[1:])
    assert caplog.messages == ["animations and files of several pages, of which only the first image is used: 1"]


def test_the_audit_lists_files_with_several_images(colors: Image.Image, tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        colors.save(tmp_path / "train" / label / "1.png")
    (tmp_path / "train/a/2.gif").write_bytes(frames_of("GIF", colors))
    colors.save(tmp_path / "train/a/3.jpg", "MPO", save_all=True, append_images=[colors])  # such as a gain map
    scanned = scan(tmp_path, tmp_path / "cache")
    found = collect_findings(scanned)
    assert found["several_images"] == ["train/a/2.gif"]
    assert summary(found)["animations, several pages"] == "1, the first image is used"
    write_findings(scanned, found, tmp_path)
    assert "several pages, of which only the first image is used: 1" in (tmp_path / "audit.html").read_text()


def test_pages_that_are_damaged_do_not_make_the_first_unreadable(colors: Image.Image, tmp_path: Path) -> None:
    whole = frames_of("TIFF", colors)
    single = as_bytes(colors, "TIFF")
    (tmp_path / "a").write_bytes(whole[: len(single) + 200])
    (check,) = check_files(tmp_path, ["a"])
    assert (check.problem, check.has_more) == ("", True)
    assert np.array_equal(decode(tmp_path / "a").permute(1, 2, 0), np.asarray(colors))


@pytest.mark.parametrize("kind", ["QOI", "DDS", "TGA", "PCX", "SGI"])
def test_rarer_formats(kind: str, colors: Image.Image, tmp_path: Path) -> None:
    name = f"a.{kind.lower()}"
    (tmp_path / name).write_bytes(as_bytes(colors, kind))
    (tmp_path / "icon.ico").write_bytes(as_bytes(colors, "ICO"))  # of folders and websites
    assert list_images(tmp_path) == [name]
    assert np.array_equal(decode(tmp_path / name).permute(1, 2, 0), np.asarray(colors))


def test_vector_graphics_are_named(colors: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(as_bytes(colors, "EPS"))
    assert check_files(tmp_path, ["a.jpg"])[0].problem == "EPS, which holds vector graphics: convert it to PNG"


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


def write_odd_files(folder: Path, colors: Image.Image) -> int:
    """Files of every format and many modes, under wrong names too; returns their number."""
    gray, turned, p3 = colors.convert("L"), Image.Exif(), rgb_profile(DISPLAY_P3)
    turned[ExifTags.Base.Orientation] = 6
    contents = {f"{kind}.{kind.lower()}": as_bytes(colors, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")}
    contents |= {
        "a.jfif": as_bytes(colors, "JPEG"),
        "b.jpe": as_bytes(colors, "JPEG", progressive=True),
        "c.jp2": as_bytes(colors, "JPEG2000"),
        "d.ppm": as_bytes(colors, "PPM"),
        "e.heic": as_bytes(colors, "HEIF", exif=turned.tobytes(), icc_profile=p3),
        "f.png": as_bytes(colors, "HEIF"),
        "g.jpg": as_bytes(colors, "AVIF"),
        "h": as_bytes(colors, "AVIF"),
        "i.avif": as_bytes(colors, "AVIF", icc_profile=p3),
        "j.jpg": as_bytes(colors, "JPEG", icc_profile=p3, exif=turned),
        "k.jpg": as_bytes(colors.convert("CMYK"), "JPEG"),
        "l.jpg": as_bytes(colors.convert("CMYK"), "JPEG", icc_profile=cmyk_profile()),
        "m.jpg": as_bytes(colors, "MPO"),
        "n.png": as_bytes(gray, "PNG", icc_profile=gray_profile(1.8)),
        "o.png": as_bytes(colors.convert("RGBA"), "PNG"),
        "p.png": as_bytes(colors.quantize(16), "PNG", transparency=0),
        "q.png": as_bytes(gray.convert("1"), "PNG"),
        "r.png": as_bytes(gray.convert("LA"), "PNG"),
        "s.png": as_bytes(Image.fromarray(np.asarray(gray).astype(np.uint16) * 257), "PNG"),
        "t.jpg": as_bytes(colors, "JPEG", icc_profile=b"damaged"),
        "u.tiff": as_bytes(colors, "TIFF", compression="jpeg"),
        "v.qoi": as_bytes(colors, "QOI"),
        "w.tga": as_bytes(colors, "TGA"),
        **{f"{kind} of three": frames_of(kind, colors) for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF")},
    }
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return len(contents)


@pytest.mark.slow
def test_a_folder_of_odd_files_trains_and_predicts(
    colors: Image.Image, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "valid", "test"):
        count = write_odd_files(tmp_path / "odd" / split / "a", colors)
        write_odd_files(tmp_path / "odd" / split / "b", colors.rotate(180))
    settings = ["data=folder", "data.root=odd", "model=scratch_cnn", "model.image_size=32", "logger=csv"]
    settings += ["data.num_workers=0", "data.batch_size=16", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
    run_command("train", *settings, "trainer.precision=32-true", "hydra.run.dir=run")
    said = "animations and files of several pages, of which only the first image is used"
    assert f"{said}: 36" in (tmp_path / "run/train.log").read_text(encoding="utf-8")
    run_command("predict", "ckpt_path=run/checkpoints/best.ckpt", "odd/test", "hydra.run.dir=predicted")
    rows = read_csv(tmp_path / "predicted/predictions.csv")
    assert len(rows) == 2 * count
    assert not any(row["error"] for row in rows)
    classifier = load(tmp_path / "run/checkpoints/best.ckpt")
    opened = [Image.open(row["path"]) for row in rows]
    for row, prediction in zip(rows, classifier.predict(opened), strict=True):
        assert prediction.probability == pytest.approx(float(row["top1_probability"]), abs=1e-6), row["path"]
