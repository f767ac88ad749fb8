"""What an image looks like at a glance: a small grey version, size and mode. Enough to find it again elsewhere."""

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from sports_lightning.data.file_hashes import read_file
from sports_lightning.data.modes import to_rgb
from sports_lightning.storage.parallel import map_ahead, usable_cores

SIDE = 32  # pixels of the small version


@dataclass(frozen=True)
class Thumbnails:
    """Of n images; those that can't be read have zeros.

    Attributes:
        small: (n, 32, 32) uint8, grey, the whole image squeezed into a square.
        size: (n, 2) int32, width and height in pixels, as stored.
        grey: (n,) bool: the image has no colour.
    """

    small: np.ndarray
    size: np.ndarray
    grey: np.ndarray

    def write(self, folder: Path) -> None:
        """Write an array a file."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def read(cls, folder: Path) -> "Thumbnails":
        """What `write` wrote."""
        return cls(*(np.load(folder / f"{field.name}.npy") for field in fields(cls)))


def read_thumbnails(root: Path, paths: list[str]) -> Thumbnails:
    """Look at every file once. Those that can't be read must be known from elsewhere (see data.ledger)."""
    looks = Thumbnails(
        np.zeros((len(paths), SIDE, SIDE), np.uint8), np.zeros((len(paths), 2), np.int32), np.zeros(len(paths), bool)
    )
    seen = tqdm(
        map_ahead(lambda path: _read_thumbnail(root / path), paths, usable_cores()),
        "looking for duplicates", len(paths), unit="img", delay=2, leave=False, disable=None,
    )  # fmt: skip
    for i, look in enumerate(seen):
        if look:
            looks.small[i], looks.size[i], looks.grey[i] = look
    return looks


def _read_thumbnail(path: Path) -> tuple[np.ndarray, tuple[int, int], bool] | None:
    try:
        with Image.open(io.BytesIO(read_file(path))) as image:
            size = image.size
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            rgb = to_rgb(ImageOps.exif_transpose(image))
    except Exception:  # PIL's decoders raise a dozen types on damaged files
        return None
    colours = np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16)
    small = rgb.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small), size, int(np.ptp(colours, axis=2).max()) <= 4  # a grey JPEG may be a step or two off
