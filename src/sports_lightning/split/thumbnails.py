"""Thumbnails for finding duplicates: a small gray version, the size and the mode of every image."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from sports_lightning.data.file_hashes import read_file
from sports_lightning.data.formats import open_image
from sports_lightning.data.modes import read_rgb
from sports_lightning.data.value_range import ValueRange
from sports_lightning.split.blobs import SIDE as BLOB_SIDE
from sports_lightning.split.blobs import Blobs, find_blobs, no_blobs
from sports_lightning.storage.parallel import map_ahead, usable_cores

SIDE = 32  # height and width of a thumbnail in pixels


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of n images, with zeros for those that can't be read.

    Attributes:
        small: (n, 32, 32) uint8, gray, the whole image resized to a square.
        size: (n, 2) int32, width and height of the stored image in pixels.
        grey: (n,) bool: the image has no color.
    """

    small: np.ndarray
    size: np.ndarray
    grey: np.ndarray

    def write(self, folder: Path) -> None:
        """Write one file per array."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    def take(self, rows: np.ndarray) -> "Thumbnails":
        """The thumbnails of the images at these positions, in memory."""
        return Thumbnails(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def read(cls, folder: Path, mmap: bool = True) -> "Thumbnails":
        """Read the files of `write`, by default memory-mapped: train needs none of them."""
        mode: Literal["r"] | None = "r" if mmap else None
        return cls(*(np.load(folder / f"{field.name}.npy", mmap_mode=mode) for field in fields(cls)))


def read_thumbnails(root: Path, paths: list[str], value_range: ValueRange | None = None) -> Thumbnails:
    """The first result of `read_images`."""
    return read_images(root, paths, value_range)[0]


def read_images(root: Path, paths: list[str], value_range: ValueRange | None = None) -> tuple[Thumbnails, list[Blobs]]:
    """Read every file, with 16- and 32-bit pixels by `value_range`: thumbnails, and the blobs of each image.

    `data.file_hashes` tells which files can't be read.
    """
    thumbnails = Thumbnails(
        np.zeros((len(paths), SIDE, SIDE), np.uint8), np.zeros((len(paths), 2), np.int32), np.zeros(len(paths), bool)
    )
    found = tqdm(
        map_ahead(lambda path: _read_thumbnail(root / path, value_range), paths, usable_cores()),
        "looking for duplicates", len(paths), unit="img", delay=2, leave=False, disable=None,
    )  # fmt: skip
    blobs = [no_blobs()] * len(paths)
    for i, thumbnail in enumerate(found):
        if thumbnail:
            thumbnails.small[i], thumbnails.size[i], thumbnails.grey[i], blobs[i] = thumbnail
    return thumbnails, blobs


def _read_thumbnail(
    path: Path, value_range: ValueRange | None
) -> tuple[np.ndarray, tuple[int, int], bool, Blobs] | None:
    try:
        with open_image(read_file(path)) as image:
            size = image.size
            rgb = read_rgb(image, BLOB_SIDE, value_range)
    except Exception:  # Pillow's decoders raise a dozen types for damaged files
        return None
    colors = np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16)
    gray = rgb.convert("L")
    small = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BOX))
    is_grey = int(np.ptp(colors, axis=2).max()) <= 4  # JPEG compression may color grey slightly
    return small, size, is_grey, find_blobs(gray)
