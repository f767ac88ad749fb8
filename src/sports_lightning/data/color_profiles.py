"""Embedded ICC profiles: littleCMS converts colors to sRGB, as browsers and viewers do.

Without the conversion the colors of a Display P3 photo are taken for those of sRGB, which makes them paler. A profile
that is damaged, or of another color space than the pixels, is ignored. This module does not import torch.
"""

import io
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

_PIXEL_MODES = {  # of the images that a profile can describe, by the mode of the pixels to convert
    "RGB": {"RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr", "1", "L", "LA", "La"},
    "L": {"1", "L", "LA", "La"},
    "CMYK": {"CMYK"},
}
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # by the color space in the header of the profile
_KEPT = 64  # conversions; that of a CMYK profile takes 2 MB


class Conversion(NamedTuple):
    """The conversion of pixels to sRGB.

    Attributes:
        mode: of the image that `apply` takes: "RGB", "L" or "CMYK".
        apply: returns an image of mode RGB.
    """

    mode: str
    apply: Callable[[Image.Image], Image.Image]


def srgb_conversion(profile: object, mode: str) -> Conversion | None:
    """The conversion of an image of 8 bits to sRGB, with the perceptual rendering intent.

    Building it takes a few milliseconds; it is kept for further images.

    Args:
        profile: `info["icc_profile"]` of the image, or None.
        mode: of the image.

    Returns:
        None if no color changes: without a profile, or with one of sRGB, of another color space, or damaged.
    """
    if not isinstance(profile, bytes) or not profile:  # a damaged TIFF may have numbers or text in its place
        return None
    conversion = _conversion(profile)
    return conversion if conversion and mode in _PIXEL_MODES[conversion.mode] else None


def changes_no_color(profile: bytes) -> bool:
    """Whether no image with this profile has to be converted."""
    return _conversion(profile) is None


@lru_cache(_KEPT)
def _conversion(profile: bytes) -> Conversion | None:
    """As `srgb_conversion`, for the images of any mode that fits."""
    levels = np.arange(256, dtype=np.uint8)
    try:
        conversion = _build(profile, _MODES[profile[16:20]], levels)
    except (OSError, KeyError, ImageCms.PyCMSError):
        return None
    if conversion.mode == "CMYK":
        return conversion
    grid = np.stack(np.meshgrid(*[levels[::17]] * 3), axis=-1).reshape(1, -1, 3)
    changes = _changes(conversion, Image.fromarray(grid if conversion.mode == "RGB" else levels[None]))
    return conversion if changes.max() > 1 else None  # the profiles of sRGB differ by rounding alone


def _build(profile: bytes, mode: str, levels: np.ndarray) -> Conversion:
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    if mode != "L":
        return Conversion(mode, ImageCms.buildTransform(source, srgb, mode, "RGB").apply)
    # Of gray, littleCMS interpolates the tone curve coarsely, by up to 10 levels, unless it is ten times as slow.
    exact = ImageCms.buildTransform(source, srgb, mode, "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    return Conversion(mode, partial(_look_up, np.asarray(exact.apply(Image.fromarray(levels[None])))[0]))


def _look_up(table: np.ndarray, image: Image.Image) -> Image.Image:
    """Replace the gray levels of an image by the colors of a table (256, 3)."""
    return Image.merge("RGB", [image.point(levels.tolist()) for levels in table.T])


def _changes(conversion: Conversion, image: Image.Image) -> np.ndarray:
    """By how much each channel of each pixel changes, (height, width, 3)."""
    return np.abs(np.asarray(conversion.apply(image), np.int16) - np.asarray(image.convert("RGB"), np.int16))


def without_profile(content: bytes) -> bytes:
    """The content of a JPEG or PNG without its profile, and of any other file as it is.

    Pillow refuses files with some kinds of damage in the profile, and PNG files whose profile is larger than 1 MB.
    """
    kept, end = bytearray(), 0
    for begin, end, is_profile in _parts(content):
        if not is_profile:
            kept += content[begin:end]
    return bytes(kept + content[end:])


def _parts(content: bytes) -> Iterator[tuple[int, int, bool]]:
    """Begin, end, and whether it holds a profile, of each segment of a JPEG or chunk of a PNG before the pixels."""
    if content.startswith(b"\xff\xd8"):
        yield 0, 2, False
        at = 2
        while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in b"\xff\xda":
            end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
            yield at, end, content.startswith(b"\xe2", at + 1) and content.startswith(b"ICC_PROFILE\0", at + 4)
            at = end
    elif content.startswith(b"\x89PNG"):
        yield 0, 8, False
        at = 8
        while (name := content[at + 4 : at + 8]) not in (b"", b"IDAT"):
            end = at + 12 + int.from_bytes(content[at : at + 4])
            yield at, end, name == b"iCCP"
            at = end
