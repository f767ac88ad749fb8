"""Copies that whole thumbnails do not show: other crops, recolored versions, and copies with a strip of text.

Images that share blobs are candidates. Those whose thumbnails fit are read again, the best fit first, and their
alignment decides.
"""

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
from sports_lightning.split.geometry import SIDE, align, correlation_of_thumbnails
from sports_lightning.split.thumbnails import Thumbnails
from sports_lightning.storage.parallel import map_ahead, usable_cores

_ALIKE = 0.4  # least correlation of the overlapping parts of two thumbnails
_AT_ONCE = 50  # pairs
# After so many failures in a row, the remaining candidates, whose thumbnails fit less, are given up. In 100 Sports, 105
# of 107 pairs come before. Drawings of one kind, as in the sample dataset, share blobs in nearly all images.
_ENOUGH = 150


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
    return _verify_best([(a, b, mirrored) for _, a, b, mirrored in sorted(candidates)], root, paths, value_range)


def _verify_best(
    candidates: list[tuple[int, int, bool]], root: Path, paths: list[str], value_range: ValueRange | None
) -> list[DuplicatePair]:
    """Verify the candidates in this order, until `_ENOUGH` in a row fail."""
    pairs: list[DuplicatePair] = []
    failed = 0
    for start in range(0, len(candidates), _AT_ONCE):
        part = candidates[start : start + _AT_ONCE]
        verified = verify(root, paths, value_range, part)
        pairs += verified
        failed = 0 if verified else failed + len(part)
        if failed >= _ENOUGH:
            break
    return sorted({(pair.first, pair.second): pair for pair in pairs}.values())


def verify(
    root: Path, paths: list[str], value_range: ValueRange | None, candidates: list[tuple[int, int, bool]]
) -> list[DuplicatePair]:
    """Those of the candidates, (first, second, mirrored), that show one photograph by their geometry."""

    def check(candidate: tuple[int, int, bool]) -> DuplicatePair | None:
        first, second, mirrored = candidate
        one, other = (_read_gray(root / paths[i], value_range) for i in (first, second))
        alignment = align(np.ascontiguousarray(one[:, ::-1]) if mirrored else one, other)
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
