"""The image formats that are read. Pillow decodes all of them except HEIC, for which the error message says so."""

# A file with another extension is not an image of the dataset.
EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff",
    ".jp2", ".ppm", ".pgm", ".pbm", ".heic", ".heif",
)  # fmt: skip

_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypheim", b"ftypheis")


def unsupported_format(content: bytes) -> str:
    """Return what to do about a file in a format that Pillow cannot read; "" for any other file."""
    return "HEIC, which Pillow can't read: convert it to JPEG" if content[4:12] in _HEIC else ""
