"""Embedded ICC profiles: an image has the same colors on every way, those that a color-managed viewer shows."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin

from icc_profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    gamma_curve,
    gray_profile,
    linear_to_srgb,
    rgb_profile,
    srgb_to_linear,
)
from image_lists import Sequenced
from sports_lightning.api.dataset_folder import _write_images
from sports_lightning.api.image_classifier import ImageTransform
from sports_lightning.data import decode as decoding
from sports_lightning.data.color_profiles import changes_no_color
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decode import decode
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.reports.html import thumbnail
from sports_lightning.split.thumbnails import read_thumbnails

pillow_heif.register_heif_opener()  # also writes

P3 = rgb_profile(DISPLAY_P3)


@pytest.fixture
def colors() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((42, 30), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def decoded(content: bytes, least: int | None = None) -> np.ndarray:
    """(height, width, 3)."""
    return decode(content, least).permute(1, 2, 0).numpy()


def by_littlecms(content: bytes, profile: bytes) -> np.ndarray:
    """The pixels that Pillow reads, upright and converted to sRGB."""
    with Image.open(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened)
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


@pytest.mark.parametrize(
    ("primaries", "gamma"), [(DISPLAY_P3, None), (ADOBE_RGB, 563 / 256)], ids=["Display P3", "Adobe RGB"]
)
def test_colors_are_those_of_the_formulas_and_of_littlecms(primaries: np.ndarray, gamma: float | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    profile = rgb_profile(primaries, gamma_curve(gamma) if gamma else None)
    content = saved(Image.fromarray(pixels), icc_profile=profile)
    linear = (pixels / 255) ** gamma if gamma else srgb_to_linear(pixels / 255)
    expected = 255 * linear_to_srgb(linear @ primaries @ np.linalg.inv(SRGB))
    found = decoded(content)
    assert np.abs(found - expected).max() <= 1, "littleCMS computes with 14 bits"
    assert np.array_equal(found, by_littlecms(content, profile))
    assert np.abs(found.astype(int) - pixels).mean() > 5, "the profile matters"


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO", "HEIF", "progressive", "in segments"])
def test_every_format_and_orientation(kind: str, turn: int, colors: Image.Image, tmp_path: Path) -> None:
    options: dict[str, object] = {"progressive": True} if kind == "progressive" else {}
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    profile = P3 + (bytes(100_000) if kind == "in segments" else b"")
    kind = kind if kind.isupper() else "JPEG"
    content = saved(colors, kind, icc_profile=profile, exif=exif.tobytes(), **options)
    found = decoded(content)
    assert found.shape == ((30, 42, 3) if turn == 1 else (42, 30, 3))
    assert np.array_equal(found, by_littlecms(content, P3))
    (tmp_path / "a.jpg").write_bytes(content)
    assert check_files(tmp_path, ["a.jpg"])[0].problem == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_all_ways_to_read_an_image_agree(kind: str, colors: Image.Image, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind.lower()}"
    file.write_bytes(content := saved(colors, kind, icc_profile=P3))
    expected = by_littlecms(content, P3)
    assert np.array_equal(decode(file).permute(1, 2, 0), expected)
    split = Split([file.name], [0], ["digest"])
    for cache in (None, "disk"):
        image = open_images(tmp_path, split, 30, cache, tmp_path / "cache")(0)
        assert np.array_equal(image.permute(1, 2, 0), expected)
    small = thumbnail(file)
    assert small is not None
    assert np.array_equal(small, expected)
    gray = np.asarray(Image.fromarray(expected).convert("L").resize((32, 32), Image.Resampling.BOX))
    assert np.array_equal(read_thumbnails(tmp_path, [file.name]).small[0], gray)

    transform = ImageTransform(Preprocessing((24, 24), (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0, "center"))
    opened = Image.open(file)
    inputs = [file, content, opened, opened.convert("RGBA"), expected]
    results = [transform(image) for image in inputs]
    assert all(torch.equal(result, results[0]) for result in results)
    _write_images(Sequenced([opened]), tmp_path / "written")
    written = tmp_path / "written/a/00000000.png"
    assert np.array_equal(decode(written).permute(1, 2, 0), expected), "not converted a second time"


def test_profiles_of_srgb_are_recognized_and_cost_no_conversion(
    colors: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    littlecms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    written = rgb_profile(SRGB)
    assert changes_no_color(littlecms)
    assert changes_no_color(written)
    assert not changes_no_color(rgb_profile(SRGB, gamma_curve(2.2))), "up to 9 darker or brighter"
    plain = {kind: decoded(saved(colors, kind)) for kind in ("JPEG", "PNG")}
    jpegs = [saved(colors, "JPEG", icc_profile=profile, comment=b"x") for profile in (littlecms, written)]
    png = saved(colors, "PNG", icc_profile=written)
    monkeypatch.setattr(ImageCms, "buildTransform", None)
    assert np.array_equal(decoded(png), plain["PNG"])
    monkeypatch.setattr(decoding, "open_image", None)  # not even opened by Pillow
    for jpeg in jpegs:
        assert np.array_equal(decoded(jpeg), plain["JPEG"])


UNUSABLE = {
    "no profile": b"no profile",
    "zeros": bytes(500),
    "half": P3[: len(P3) // 2],
    "no tags": P3[:128] + bytes(4),
    "of gray": gray_profile(1.0),
    "of CMYK": cmyk_profile(),
    "of no space": P3[:16] + b"\xff" * 4 + P3[20:],
    "of Lab": P3[:16] + b"Lab " + P3[20:],
    "in segments": b"\xff\xda" * 50_000,
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_unusable_profile_is_ignored(name: str, kind: str, colors: Image.Image, tmp_path: Path) -> None:
    content = saved(colors, kind, icc_profile=UNUSABLE[name])
    assert np.array_equal(decoded(content), decoded(saved(colors, kind)))
    (tmp_path / "a").write_bytes(content)
    assert check_files(tmp_path, ["a"])[0].problem == ""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


DAMAGED_CHUNKS = {
    "method": chunk(b"iCCP", b"x\0\7" + zlib.compress(P3)),
    "not compressed": chunk(b"iCCP", b"x\0\0" + P3),
    "checksum": chunk(b"iCCP", b"x\0\0" + zlib.compress(P3))[:-4] + bytes(4),
    "empty": chunk(b"iCCP", b""),
    "larger than 1 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(P3 + bytes(2**21))),
}


@pytest.mark.parametrize("name", DAMAGED_CHUNKS)
def test_a_png_with_a_damaged_chunk(name: str, colors: Image.Image) -> None:
    plain = saved(colors)
    content = plain[:33] + DAMAGED_CHUNKS[name] + plain[33:]  # after IHDR
    assert np.array_equal(decoded(content), np.asarray(colors))


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\1", b"\1\2" + P3, b"\2\2" + P3, b"\0\0" + P3, b"\1\1" + P3[:99]])
def test_a_jpeg_with_a_damaged_segment(data: bytes, colors: Image.Image) -> None:
    plain = saved(colors, "JPEG")
    segment = b"ICC_PROFILE\0" + data
    content = plain[:2] + b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert np.array_equal(decoded(content), decoded(plain))


@pytest.mark.parametrize("value", ["text", (1, 2, 3)])
def test_a_tiff_with_another_type_of_tag(value: object, colors: Image.Image) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[TiffImagePlugin.ICCPROFILE] = value
    tags.tagtype[TiffImagePlugin.ICCPROFILE] = 2 if isinstance(value, str) else 3
    assert np.array_equal(decoded(saved(colors, "TIFF", tiffinfo=tags)), np.asarray(colors))


def test_gray_images() -> None:
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    brightness = np.arange(256).reshape(16, 16, 1) / 255
    for gamma in (1.0, 1.8):
        expected = 255 * linear_to_srgb(brightness**gamma)
        for kind in ("PNG", "JPEG"):
            content = saved(
                levels, kind, icc_profile=gray_profile(gamma), **({"quality": 100} if kind != "PNG" else {})
            )
            assert np.abs(decoded(content) - expected).max() <= (1 if kind == "PNG" else 3)
    adobe = decoded(saved(levels, icc_profile=rgb_profile(ADOBE_RGB, gamma_curve(563 / 256))))
    assert np.abs(adobe - 255 * linear_to_srgb(brightness ** (563 / 256))).max() <= 1, "of RGB, too"
    assert np.ptp(adobe, axis=2).max() <= 1


def test_cmyk_images(colors: Image.Image) -> None:
    image = colors.convert("CMYK")
    profile = cmyk_profile()
    for kind in ("TIFF", "JPEG"):
        content = saved(image, kind, icc_profile=profile)
        found = decoded(content)
        assert np.array_equal(found, by_littlecms(content, profile))
        assert np.ptp(found, axis=2).max() <= 3, "gray by the profile"
        assert np.ptp(decoded(saved(image, kind)), axis=2).max() > 100
        wrong = saved(image, kind, icc_profile=P3)
        assert np.array_equal(decoded(wrong), decoded(saved(image, kind))), "that of another space"


def convert(pixels: np.ndarray) -> np.ndarray:
    return by_littlecms(saved(Image.fromarray(pixels)), P3)


@pytest.mark.parametrize("make", [lambda image: image, lambda image: image.quantize(64)], ids=["RGBA", "palette"])
def test_transparent_images_are_converted_and_then_laid_on_white(
    make: Callable[[Image.Image], Image.Image], colors: Image.Image
) -> None:
    image = colors.convert("RGBA")
    alpha = np.asarray(
        colors.convert("L").point(lambda value: 255 * (value > 100) if make(image).mode == "P" else value)
    )
    image.putalpha(Image.fromarray(alpha))
    image = make(image)
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    share = rgba[..., 3:] / 255
    expected = convert(rgba[..., :3].astype(np.uint8)) * share + 255 * (1 - share)
    found = decoded(saved(image, icc_profile=P3))
    assert np.abs(found - expected).max() <= 1.5
    assert share.min() < 0.5 < share.max()


def test_images_of_16_bits(colors: Image.Image, tmp_path: Path) -> None:
    """A profile converts colors, of which Pillow keeps 8 bits, and leaves gray values to `data.value_range`."""
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    gray = saved(Image.fromarray(values), icc_profile=gray_profile(1.0))
    assert np.array_equal(decoded(gray)[..., 0], values.astype(float) * 255 // 65535)
    pixels = np.asarray(colors)
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 42, 30, 16, 2, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"iCCP", b"x\0\0" + zlib.compress(P3)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks)
    (tmp_path / "a.png").write_bytes(content)
    assert check_files(tmp_path, ["a.png"])[0].high_depth == "color"
    assert np.array_equal(decoded(content), convert(pixels))


def test_a_jpeg_is_scaled_before_its_colors_are_converted(colors: Image.Image) -> None:
    content = saved(colors.resize((420, 300), Image.Resampling.BICUBIC), "JPEG", icc_profile=P3, quality=95)
    small = decoded(content, 75)
    assert small.shape == (75, 105, 3)
    whole = Image.fromarray(decoded(content))
    difference = np.abs(small - np.asarray(whole.resize((105, 75), Image.Resampling.BOX), dtype=float))
    assert difference.mean() < 1
    assert np.quantile(difference, 0.99) <= 3, "both orders differ by rounding, and at edges"
