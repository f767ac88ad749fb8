"""Near copies among images: found once and cached, as both the cut into splits and the audit need them."""

import json
import tempfile
from pathlib import Path

import numpy as np

from sports_lightning.data.formats import pixel_limit
from sports_lightning.data.value_range import ValueRange
from sports_lightning.errors import UserError
from sports_lightning.split.crops import find_crops
from sports_lightning.split.duplicates import DuplicatePair, find_duplicates
from sports_lightning.split.thumbnails import Thumbnails, read_images
from sports_lightning.storage.disk_cache import cache_key, cached_folder, installed_versions

_LIBRARIES = ("numpy", "scipy", "opencv-python-headless", "opencv-python")  # which compute the features


def compare_images(
    root: Path, paths: list[str], digests: list[str], value_range: ValueRange | None, cache_dir: Path
) -> tuple[Thumbnails, list[DuplicatePair]]:
    """Thumbnails of the images and the duplicates among them; the results for these images are cached.

    Args:
        root: the folder that the paths are relative to.
        paths: the image files; their order decides which image of a pair is the first.
        digests: of each file's content; "" for an unreadable file.
        value_range: of 16- and 32-bit pixels.
        cache_dir: `data.cache_dir`.
    """
    # File names do not matter.
    key = cache_key(__name__, installed_versions(_LIBRARIES), digests, value_range, pixel_limit())

    def build(folder: Path) -> None:
        thumbnails, blobs = read_images(root, paths, value_range)
        thumbnails.write(folder)
        pairs = find_duplicates(thumbnails.small, digests)
        pairs = sorted(pairs + find_crops(root, paths, digests, value_range, thumbnails, blobs, pairs))
        (folder / "pairs.json").write_text(json.dumps([list(pair) for pair in pairs]), encoding="utf-8")

    try:
        return _read(cached_folder(cache_dir, "scan", key, build))
    except UserError:  # the cache folder is not writable
        with tempfile.TemporaryDirectory() as temporary:
            build(Path(temporary))
            return _read(Path(temporary), mmap=False)


def compare_in_any_order(
    root: Path, paths: list[str], digests: list[str], value_range: ValueRange | None, cache_dir: Path
) -> tuple[Thumbnails, list[DuplicatePair]]:
    """`compare_images` with results that do not depend on the order of the images, but on their content only.

    The search is approximate: in another order it may find another few pairs. A split that was cut by near copies must
    have none of them across its splits, whoever looks for them later, and in whatever order.
    """
    order, thumbnails, pairs = _compare_by_content(root, paths, digests, value_range, cache_dir)
    return thumbnails.take(np.argsort(order)), pairs


def find_near_copies(
    root: Path, paths: list[str], digests: list[str], value_range: ValueRange | None, cache_dir: Path
) -> list[DuplicatePair]:
    """The pairs of `compare_in_any_order`."""
    return _compare_by_content(root, paths, digests, value_range, cache_dir)[2]


def _compare_by_content(
    root: Path, paths: list[str], digests: list[str], value_range: ValueRange | None, cache_dir: Path
) -> tuple[list[int], Thumbnails, list[DuplicatePair]]:
    """The order of the images by content, their thumbnails in this order, and the pairs in that of the arguments."""
    order = sorted(range(len(paths)), key=digests.__getitem__)
    thumbnails, pairs = compare_images(
        root, [paths[i] for i in order], [digests[i] for i in order], value_range, cache_dir
    )
    renumbered = []
    for pair in pairs:
        first, second = sorted((order[pair.first], order[pair.second]))
        renumbered.append(pair._replace(first=first, second=second))
    return order, thumbnails, sorted(renumbered)


def _read(folder: Path, mmap: bool = True) -> tuple[Thumbnails, list[DuplicatePair]]:
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    return Thumbnails.read(folder, mmap), [DuplicatePair(*pair) for pair in pairs]
