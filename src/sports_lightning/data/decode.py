"""Decoding of any image file into an RGB uint8 tensor."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from sports_lightning.data.file_hashes import check_size, printable, read_file, reason
from sports_lightning.data.modes import to_rgb
from sports_lightning.errors import UnreadableImage


def decode(path: str | Path, least: int | None = None) -> Tensor:
    """Decode an image file to a uint8 tensor (3, height, width), with its EXIF orientation applied.

    Args:
        path: the file.
        least: number of pixels that the shorter side must keep. A larger JPEG is scaled by 1/2, 1/4 or 1/8 while it is
            decoded, which costs a fraction of the time and memory; None decodes at full size.

    Raises:
        UnreadableImage: not an image, truncated, or larger than Pillow's limit for decompression bombs.
    """
    try:
        content = read_file(path)
        pixels = _decode_jpeg(content, least)
        if pixels is None:
            pixels = _decode_any(content, least)
    except Exception as error:  # PIL's decoders raise a dozen types on damaged files; all mean the same here
        raise UnreadableImage(f"can't read {printable(path)} as an image: {reason(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_jpeg(content: bytes, least: int | None) -> np.ndarray | None:
    """Decode a common JPEG to (height, width, 3), bit-identical to Pillow in less than two thirds of its time.

    Returns None if Pillow has to decode the file: another format, a damaged file, CMYK, or a rotated image.
    """
    if not content.startswith(b"\xff\xd8\xff") or not _is_upright(content):
        return None
    with suppress(ValueError):
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        check_size(height, width)
        if colors in ("YCbCr", "RGB", "Gray"):
            scale = next(s for s in (8, 4, 2, 1) if s == 1 or (least and min(height, width) >= s * least))
            return simplejpeg.decode_jpeg(content, "RGB", min_height=-(-height // scale), min_width=-(-width // scale))
    return None


def _is_upright(content: bytes) -> bool:
    """Whether a JPEG needs no rotation. Only the segment APP1 (Exif or XMP) can hold an orientation."""
    # Segments before the pixels have a marker and a length, which includes itself (ITU-T T.81, B.1).
    at = 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in b"\xff\xe1\xda":
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    if content[at : at + 2] == b"\xff\xda":
        return True
    with Image.open(io.BytesIO(content)) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _decode_any(content: bytes, least: int | None) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        check_size(image.height, image.width)
        if least and min(image.size) >= 2 * least:
            image.draft(None, (least, least))  # JPEGs only
        return np.array(to_rgb(ImageOps.exif_transpose(image)))
