"""Decoding of any image file into an sRGB uint8 tensor."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from sports_lightning.data.color_profiles import changes_no_color, srgb_conversion
from sports_lightning.data.file_hashes import printable, read_file
from sports_lightning.data.formats import decoding_problem, exceeds_limit, jpeg_scale, open_image
from sports_lightning.data.modes import orientation, read_rgb
from sports_lightning.errors import UnreadableImage

_WHOLE_PROFILE = b"ICC_PROFILE\0\1\1"  # the first of one segments, as profiles up to 64 KB have it


def decode(source: str | Path | bytes, least: int | None = None, value_range: Sequence[float] | None = None) -> Tensor:
    """Decode an image file to a uint8 tensor (3, height, width): sRGB, with its EXIF orientation applied.

    Args:
        source: the file, or its content.
        least: number of pixels that the shorter side must keep. A larger JPEG is scaled by 1/2, 1/4 or 1/8 while it is
            decoded, which costs a fraction of the time and memory; None decodes at full size. A JPEG with more pixels
            than the limit (`data.max_pixels`) is scaled in any case.
        value_range: the values of 16- and 32-bit pixels that become black and white (see `to_rgb`).

    Raises:
        UnreadableImage: not an image, truncated, larger than the limit, or 32-bit pixels without a `value_range`.
    """
    try:
        content = source if isinstance(source, bytes) else read_file(source)
        pixels = _decode_jpeg(content, least)
        if pixels is None:
            with open_image(content) as image:
                pixels = np.array(read_rgb(image, least, value_range))
    except Exception as error:  # PIL's decoders raise a dozen types on damaged files; all mean the same here
        name = "these bytes" if isinstance(source, bytes) else printable(source)
        raise UnreadableImage(f"can't read {name} as an image: {decoding_problem(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_jpeg(content: bytes, least: int | None) -> np.ndarray | None:
    """Decode a common JPEG to (height, width, 3), bit-identical to Pillow in less than two thirds of its time.

    Returns None if Pillow has to decode the file: another format, a damaged file, CMYK, an image that has to be rotated
    or converted to sRGB, or one with more pixels than the limit.
    """
    if not content.startswith(b"\xff\xd8\xff") or not _is_upright_srgb(content):
        return None
    with suppress(ValueError):
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        if colors in ("YCbCr", "RGB", "Gray") and not exceeds_limit(height * width):
            scale = jpeg_scale(height, width, least)
            return simplejpeg.decode_jpeg(content, "RGB", min_height=-(-height // scale), min_width=-(-width // scale))
    return None


def _is_upright_srgb(content: bytes) -> bool:
    """Whether a JPEG needs neither a rotation nor other colors.

    Only the segment APP1 (Exif or XMP) can hold an orientation, and only APP2 an ICC profile.
    """
    # Segments before the pixels have a marker and a length, which includes itself (ITU-T T.81, B.1).
    at = 2
    while content[at : at + 1] == b"\xff" and (kind := content[at + 1 : at + 2]) not in b"\xff\xe1\xda":
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if kind == b"\xe2" and not (
            content.startswith(_WHOLE_PROFILE, at + 4) and changes_no_color(content[at + 4 + len(_WHOLE_PROFILE) : end])
        ):
            break
        at = end
    if content[at : at + 2] == b"\xff\xda":
        return True
    with open_image(content) as image:
        return orientation(image) == 1 and not srgb_conversion(image.info.get("icc_profile"), image.mode)
