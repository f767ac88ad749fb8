"""The image formats that are read: recognized by content, and opened by Pillow."""

import io
import os
import re
import stat
from pathlib import Path

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sports_lightning.data.color_profiles import without_profile

# A file with one of these extensions is an image; any other file is one if its first bytes say so.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".heic", ".heif", ".heics", ".heifs", ".hif", ".psd", ".qoi", ".tga", ".dds", ".pcx", ".sgi"),
)
# Raw files of cameras begin like TIFF, and what Pillow reads of them is a thumbnail.
_RAW_EXTENSIONS = (
    ".dng", ".nef", ".nrw", ".cr2", ".arw", ".sr2", ".srf", ".srw", ".pef", ".orf", ".rw2", ".3fr", ".erf", ".iiq",
    ".kdc", ".mos", ".mef",
)  # fmt: skip

_SIGNATURE_BYTES = 12
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: BigTIFF
_SIGNATURES = (
    *(_JPEG, b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", *_TIFF),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),  # JPEG 2000
    *(b"8BPS\0\1", b"qoif", b"DDS \x7c"),  # PSD, QOI, DDS
)
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_NETPBM = re.compile(rb"P[1-6f]\s+[\d#]")
_VECTOR = ("EPS", "WMF")  # which Pillow hands to other programs
_TOO_MANY = "pixels, more than data.max_pixels="
_REMEDY = ": set a larger limit (in Python PIL.Image.MAX_IMAGE_PIXELS), or scale the image down"


def is_image_name(name: str) -> bool:
    """Whether the extension of a file name is one of an image format."""
    return name.lower().endswith(EXTENSIONS)


def is_image_file(path: str | Path) -> bool:
    """Whether a file that is not a raw file of a camera begins like an image format."""
    if str(path).lower().endswith(_RAW_EXTENSIONS):
        return False
    try:
        with open(path, "rb", buffering=0, opener=open_without_blocking) as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _is_image(file.read(_SIGNATURE_BYTES))
    except OSError:
        return False


def _is_image(start: bytes) -> bool:
    if start.startswith(_SIGNATURES) or _NETPBM.match(start):
        return True
    if start[:2] == b"BM":
        return start[6:10] == bytes(4)  # reserved; text may start with BM, too
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    return start[4:8] == b"ftyp" and start[8:12] in (*_HEIC, *_AVIF)


def open_without_blocking(path: str, flags: int) -> int:
    """An opener for `open` that does not wait for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_image(content: bytes) -> Image.Image:
    """Open the content of an image file with Pillow; its pixels are not decoded yet.

    Raises:
        ValueError: HEIC without pillow-heif, or vector graphics.
        Exception: not an image: Pillow's plugins raise a dozen types.
    """
    if _is_heic(content):
        _read_heic()
    try:
        return _open(content)
    except Exception:
        bare = without_profile(content)
        if len(bare) == len(content):
            raise
        return _open(bare)


def _open(content: bytes) -> Image.Image:
    if content.startswith(_JPEG):
        return JpegImageFile(io.BytesIO(content))  # Image.open refuses large images, also those that draft scales down
    try:
        image = Image.open(io.BytesIO(content))
    except Image.UnidentifiedImageError:
        if content.startswith(_TIFF):
            raise ValueError(
                "TIFF with pixels that Pillow can't read: convert it to 8 or 16 bits, gray or RGB"
            ) from None
        raise
    if image.format in _VECTOR:
        raise ValueError(f"{image.format}, which holds vector graphics: convert it to PNG")
    return image


def has_further_images(image: Image.Image) -> bool:
    """Whether the file of a decoded image holds more than this one, as animations and documents of several pages do.

    The layers of a PSD and the further images of a JPEG, such as gain maps and depths, do not count.
    """
    if image.format == "PSD":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # damaged further images; Pillow's plugins raise a dozen types
        return True


def _is_heic(content: bytes) -> bool:
    """Whether the first box of the file lists a brand of HEIC, and none of AVIF, which Pillow reads itself."""
    if content[4:8] != b"ftyp":
        return False
    brands = {content[at : at + 4] for at in range(8, min(int.from_bytes(content[:4]), 64), 4)}
    return bool(brands.intersection(_HEIC)) and not brands.intersection(_AVIF)


def _read_heic() -> None:
    """Let Pillow read HEIC. The import takes 50 ms, which a process without such images does not spend.

    Raises:
        ValueError: pillow-heif is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError("HEIC, which needs pillow-heif: pip install pillow-heif, or convert it to JPEG") from None
    register_heif_opener()


def limit_pixels(most: int | None) -> None:
    """Set the largest number of pixels of an image for this process (`data.max_pixels`); None: no limit."""
    Image.MAX_IMAGE_PIXELS = most


def pixel_limit() -> int | None:
    """The limit of this process: the pixels of a larger JPEG depend on it, so that it is part of the keys of caches."""
    return Image.MAX_IMAGE_PIXELS


def jpeg_scale(height: int, width: int, least: int | None) -> int:
    """The divisor, 1, 2, 4 or 8, by which a JPEG is scaled down while it is decoded.

    Args:
        height, width: of the stored image, in pixels.
        least: number of pixels that the shorter side must keep; None: as many as the limit allows.
    """
    scale = next(s for s in (8, 4, 2, 1) if s == 1 or (least and min(height, width) >= s * least))
    while scale < 8 and exceeds_limit(height * width // scale**2):
        scale *= 2
    return scale


def counted_pixels(image: Image.Image) -> int:
    """The pixels of an open image that count towards the limit, before `draft`.

    A JPEG can be scaled by 1/8 in each direction while it is decoded. A progressive one counts by half, because its
    decoder holds all coefficients.
    """
    pixels = image.width * image.height
    if isinstance(image, JpegImageFile):
        return pixels // (2 if "progressive" in image.info else 64)
    return pixels


def exceeds_limit(pixels: int) -> bool:
    """Whether these are more pixels than the limit."""
    return Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS


def is_too_large(problem: str) -> bool:
    """Whether the limit is what makes an image unreadable, by the text of `decoding_problem`."""
    return _TOO_MANY in problem


def check_pixels(image: Image.Image) -> int:
    """The number of pixels of an open image that count towards the limit.

    Raises:
        ValueError: it exceeds the limit, of which Pillow only warns.
    """
    pixels = counted_pixels(image)
    if exceeds_limit(pixels):
        raise ValueError(f"{image.width}×{image.height} {_TOO_MANY}{Image.MAX_IMAGE_PIXELS}{_REMEDY}")
    return pixels


def decoding_problem(error: Exception) -> str:
    """Why an image can't be decoded, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a known image format"
    if isinstance(error, Image.DecompressionBombError):
        count = next(iter(re.findall(r"\d+", str(error))), "too many")
        return f"{count} {_TOO_MANY}{Image.MAX_IMAGE_PIXELS}{_REMEDY}"
    return " ".join(str(error).split()) or type(error).__name__
