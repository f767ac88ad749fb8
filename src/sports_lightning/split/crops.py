"""Copies that whole thumbnails do not show: other crops, recolored versions, and copies with a strip of text.

Images that share blobs are candidates. Those whose thumbnails fit are read again, the best fit first, and their
alignment decides.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from sports_lightning.data.file_hashes import read_file
from sports_lightning.data.formats import open_image
from sports_lightning.data.modes import read_rgb
from sports_lightning.data.value_range import ValueRange
from sports_lightning.split.blob_matches import match_blobs
from sports_lightning.split.blobs import Blobs
from sports_lightning.split.duplicates import DuplicatePair, first_of_each
from sports_lightning.split.geometry import SIDE, Described, align, correlation_of_thumbnails, describe
from sports_lightning.split.thumbnails import Thumbnails
from sports_lightning.storage.parallel import map_ahead, usable_cores

_ALIKE = 0.4  # least correlation of the overlapping parts of two thumbnails
_AT_ONCE = 50  # pairs
_REMEMBERED = 1000  # images with their features, 0.2 MB each
# After so many failures in a row, the remaining candidates, whose thumbnails fit less, are given up. In 100 Sports, 105
# of 107 pairs come before. Drawings of one kind, as in the sample dataset, share blobs in nearly all images.
_ENOUGH = 150

Candidate = tuple[int, int, bool]  # positions of two images, and whether one is a mirror image of the other
Describe = Callable[[int, bool], Described]  # by the position of an image, and whether to mirror it


def find_crops(
    root: Path,
    paths: list[str],
    digests: list[str],
    value_range: ValueRange | None,
    thumbnails: Thumbnails,
    blobs: list[Blobs],
    known: list[DuplicatePair],
) -> list[DuplicatePair]:
    """Pairs that show one photograph by their geometry and are not among the `known` ones.

    The number of pairs that are compared grows linearly with that of images.

    Args:
        root, paths, digests, value_range: see `near_copies.compare_images`.
        thumbnails, blobs: of each image.
        known: the pairs of `find_duplicates`.
    """
    distinct = list(first_of_each(digests).values())
    image = np.repeat(np.array(distinct, np.int32), [len(blobs[i].place) for i in distinct])
    if not len(image):
        return []
    place, signature = (np.concatenate([getattr(blobs[i], name) for i in distinct]) for name in ("place", "signature"))
    found = match_blobs(image, place, signature)
    seen = {(pair.first, pair.second) for pair in known}
    candidates = []
    for (a, b), mirrored, transform in zip(
        found.pairs.tolist(), found.mirrored.tolist(), found.transforms, strict=True
    ):
        fit = correlation_of_thumbnails(thumbnails.small[a], thumbnails.small[b], transform, mirrored)
        if fit >= _ALIKE and (a, b) not in seen:
            candidates.append((-fit, a, b, mirrored))
    described = describer(root, paths, value_range)
    return _verify_best([(a, b, mirrored) for _, a, b, mirrored in sorted(candidates)], described)


def _verify_best(candidates: list[Candidate], described: Describe) -> list[DuplicatePair]:
    """Verify the candidates in this order, until `_ENOUGH` in a row fail."""
    pairs: list[DuplicatePair] = []
    failed = 0
    for start in range(0, len(candidates), _AT_ONCE):
        part = candidates[start : start + _AT_ONCE]
        verified = verify(part, described)
        pairs += verified
        failed = 0 if verified else failed + len(part)
        if failed >= _ENOUGH:
            break
    return sorted({(pair.first, pair.second): pair for pair in pairs}.values())


def describer(root: Path, paths: list[str], value_range: ValueRange | None) -> Describe:
    """A function that reads one of these images and finds its features; it remembers the last ones."""

    @lru_cache(_REMEMBERED)
    def described(image: int, mirrored: bool) -> Described:
        pixels = _read_gray(root / paths[image], value_range)
        return describe(np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels)

    return described


def verify(candidates: list[Candidate], described: Describe) -> list[DuplicatePair]:
    """Those of the candidates that show one photograph by their geometry.

    Args:
        candidates: the pairs.
        described: see `describer`.
    """

    def check(candidate: Candidate) -> DuplicatePair | None:
        first, second, mirrored = candidate
        alignment = align(described(first, mirrored), described(second, False))
        pair = DuplicatePair(first, second, round(alignment.correlation, 4), mirrored, verified=True)
        return pair if alignment.is_same_photograph else None

    checked = tqdm(
        map_ahead(check, candidates, usable_cores()),
        "comparing crops", len(candidates), unit="pair", delay=2, leave=False, disable=None,
    )  # fmt: skip
    best = {(pair.first, pair.second): pair for pair in checked if pair}
    return sorted(best.values())


def _read_gray(path: Path, value_range: ValueRange | None) -> np.ndarray:
    """A gray image (height, width) uint8 whose longer side has `geometry.SIDE` pixels."""
    with open_image(read_file(path)) as image:
        gray = read_rgb(image, SIDE, value_range).convert("L")
    scale = SIDE / max(gray.size)
    size = [max(8, round(side * scale)) for side in gray.size]
    return np.asarray(gray.resize(size, Image.Resampling.BICUBIC) if list(gray.size) != size else gray)
