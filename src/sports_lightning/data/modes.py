"""From an open Pillow image of any mode to upright 8-bit sRGB. This module does not import torch."""

from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

from sports_lightning.data.color_profiles import srgb_conversion
from sports_lightning.data.formats import check_pixels, jpeg_scale

SIXTEEN_BITS = (0.0, 65535.0)
_TRANSPOSITIONS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_rgb(image: Image.Image, least: int | None, value_range: Sequence[float] | None) -> Image.Image:
    """Decode an open image; only the first frame of an animation is used.

    Args:
        image: whose pixels are not decoded yet.
        least: number of pixels that the shorter side of a JPEG must keep (see `decode`).
        value_range: see `to_rgb`.

    Raises:
        ValueError: larger than the limit, or 32-bit pixels without a `value_range`.
        Exception: damaged: Pillow's decoders raise a dozen types.
    """
    check_pixels(image)
    if isinstance(image, JpegImageFile):
        scale = jpeg_scale(image.height, image.width, least)
        image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
    return to_rgb(image, value_range)


def to_rgb(image: Image.Image, value_range: Sequence[float] | None = None) -> Image.Image:
    """Convert to upright 8-bit sRGB: the EXIF orientation is applied, and transparency becomes white.

    An embedded ICC profile is applied to pixels of 8 bits (see `data.color_profiles`), and to colors of 16 bits, of
    which Pillow keeps the upper 8. It is ignored in gray images of 16 and 32 bits, whose brightness `value_range` sets.

    Args:
        image: of any mode.
        value_range: the values of 16- and 32-bit pixels (see `high_depth_kind`) that become black and white, the same
            in every image, so that brightness is comparable between images; values beyond are clipped. None: 0..65535
            for 16 bits.

    Raises:
        ValueError: 32-bit pixels without a `value_range`, or signed pixels of 8 bits.
    """
    image = _to_8_bits(image, value_range) if high_depth_kind(image) else _to_srgb(upright(image))
    if _is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB or RGBA, of 8 bits, or the image itself if no color changes."""
    conversion = srgb_conversion(image.info.get("icc_profile"), image.mode)
    if conversion is None:
        return image
    if _is_transparent(image):
        image = image.convert("RGBA")
    converted = conversion.apply(image.convert(conversion.mode))
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied."""
    return _turned(image, _turn(image))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 if it has none, or damaged EXIF data."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises a dozen types
        return 1
    return turn if turn in _TRANSPOSITIONS else 1


def _turn(image: Image.Image) -> int:
    """The orientation that decoding leaves: TIFF images are rotated then."""
    image.load()
    return orientation(image)


def _turned(image: Image.Image, turn: int) -> Image.Image:
    return image if turn == 1 else image.transpose(_TRANSPOSITIONS[turn])


def high_depth_kind(image: Image.Image) -> str:
    """What the gray pixels of an image with more than 8 bits are, "integer" or "floating-point"; "" for 8 bits.

    Raises:
        ValueError: signed pixels of 8 bits, of which Pillow makes unsigned ones.
    """
    if image.mode == "L" and _is_signed(image):
        raise ValueError("TIFF with signed 8-bit pixels: convert it to unsigned ones")
    if image.mode == "F":
        return "floating-point"
    return "integer" if image.mode == "I" or image.mode.startswith("I;") else ""


def has_16_bit_colors(image: Image.Image) -> bool:
    """Whether an open image stores several channels of 16 bits each, of which Pillow keeps the upper 8 bits."""
    tile = str(getattr(image, "tile", ""))  # one in memory has none
    return not high_depth_kind(image) and (";16" in tile or "('RGB', 65535)" in tile)  # the latter: PPM


def stored_values(image: Image.Image) -> np.ndarray:
    """The pixels of a 16- or 32-bit image (height, width), as stored; of colors (height, width, 3), without alpha.

    Raises:
        ValueError: a value is infinite or not a number.
    """
    values = np.asarray(image)
    if image.mode == "I" and hasattr(image, "tag_v2") and not _is_signed(image):
        values = values.view(np.uint32)  # which Pillow takes for int32
    if values.ndim == 3:  # alpha is opaque in most images, and the fourth channel of RGBX is unused
        values = values[..., [band not in "AaX" for band in image.getbands()]]
    if not np.isfinite(values).all():
        raise ValueError("pixels that are infinite or not a number: replace them")
    return values


def is_min_white(image: Image.Image) -> bool:
    """Whether the lowest value of an open image is white, as TIFF allows. Pillow inverts such images of 8 bits only."""
    return bool(high_depth_kind(image)) and getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0


def _is_signed(image: Image.Image) -> bool:
    """Whether the pixels of an open image are signed integers, which only TIFF can store."""
    return 2 in getattr(image, "tag_v2", {}).get(SAMPLEFORMAT, ())


def _to_8_bits(image: Image.Image, value_range: Sequence[float] | None) -> Image.Image:
    """Upright, of mode L."""
    # Pillow's own conversion clips at 255, which makes an image white.
    if value_range is None and not image.mode.startswith("I;16"):
        raise ValueError(
            f"32-bit {high_depth_kind(image)} pixels, whose range is not known: convert the image to 8 bits or, in a "
            f"command, set data.value_range=[LOW,HIGH], the values of black and white"
        )
    low, high = value_range or SIXTEEN_BITS
    turn = _turn(image)  # the new image has no tags
    values = stored_values(image).astype(np.float32)
    pixels = ((values - low) * 255 / (high - low)).clip(0, 255).astype(np.uint8)
    return _turned(Image.fromarray(255 - pixels if is_min_white(image) else pixels), turn)
