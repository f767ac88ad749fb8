"""Duplicate images: identical, re-encoded, scaled, mirrored, slightly cropped or brightened.

Each image is described by the low frequencies of its thumbnail, as in perceptual hashing (Zauner 2010). Each amplitude
is multiplied by its frequency, because amplitudes in natural images fall as 1/f (Field 1987) and the lowest would
dominate. Cropped copies are found by comparing an image with crops of every other one. Candidates (see
`hash_neighbours`) are then compared by their pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.fft import dctn

from sports_lightning.split.hash_neighbours import find_neighbours, thin_out, unit
from sports_lightning.split.thumbnails import SIDE

_FREQUENCIES = 8  # of the cosine transform, in each direction
_TABLES = 24
_ALIKE = 0.8  # least correlation of low frequencies for comparing pixels; that of copies is mostly above 0.95
_CLOSE = 0.95  # least correlation of pixels for a closer alignment
_SAME = 0.977  # least correlation of the pixels of duplicates, chosen by inspecting pairs of 100 Sports
_OF_GROUP = (8, 2, 1)  # an image with more than 8 copies keeps the 2 first and the most similar one
_AT_ONCE = 2**14  # images
_LEAST_CONTRAST = 4.0  # standard deviation in gray levels; all blank images below it resemble each other

Span = tuple[float, float]
Window = tuple[Span, Span]

# The parts of an image that a copy may show, as (from, to) fractions of height and width: _WINDOWS for finding
# candidates, and the finer _SPANS and _CLOSE_SPANS for comparing pixels in two rounds, which need a closer alignment.
_WHOLE, _FROM, _TO = (0.0, 1.0), (0.05, 1.0), (0.0, 0.95)
_WINDOWS: list[Window] = [
    (_WHOLE, _WHOLE), ((0.025, 0.975), (0.025, 0.975)), ((0.05, 0.95), (0.05, 0.95)),
    *((rows, columns) for rows in (_FROM, _TO) for columns in (_FROM, _TO)),
    (_FROM, _WHOLE), (_TO, _WHOLE), (_WHOLE, _FROM), (_WHOLE, _TO),
]  # fmt: skip
_SPANS: list[Span] = [(low, 1 - high) for low in (0.0, 0.025, 0.05) for high in (0.0, 0.025, 0.05)]
_CLOSE_SPANS: list[Span] = [(low / 80, 1 - high / 80) for low in range(6) for high in range(6)]


class DuplicatePair(NamedTuple):
    """Positions of two duplicate images, first < second.

    Attributes:
        similarity: correlation of the gray pixels of the best-matching parts; 1.0 for identical files.
        mirrored: whether one is the mirror image of the other.
        verified: found by blobs and verified by geometry (see `crops`); the similarity is that of blocks of pixels.
    """

    first: int
    second: int
    similarity: float
    mirrored: bool
    verified: bool = False


def find_duplicates(small: np.ndarray, digests: list[str]) -> list[DuplicatePair]:
    """Find pairs of duplicate images.

    Each of several byte-identical files is paired with the first one, and only the first is compared with others. The
    number of pairs grows linearly with that of images: an image with many copies is paired with some of them.

    Args:
        small: (n, 32, 32) uint8, see `Thumbnails`.
        digests: (n,) digests of the content; "" for an unreadable file, which is not compared.
    """
    first = first_of_each(digests)
    pairs = [DuplicatePair(first[d], i, 1.0, False) for i, d in enumerate(digests) if d and first[d] != i]
    distinct = np.array(list(first.values()), dtype=np.int64)
    distinct = distinct[_in_chunks(lambda pixels: pixels.std(axis=(1, 2)), small[distinct]) >= _LEAST_CONTRAST]
    pixels = small[distinct]
    if len(distinct) > 1:
        candidates, mirrored = _candidates(pixels, np.random.default_rng(0))
        for closeness, spans in ((_CLOSE, _SPANS), (_SAME, _CLOSE_SPANS)):
            similarity = _compare(pixels, candidates, mirrored, spans)
            enough = similarity >= closeness
            # In a large group of copies, some of an image's copies are enough: among them the first one.
            enough[enough] = thin_out(candidates[enough, 0], candidates[enough, 1], similarity[enough], *_OF_GROUP)
            candidates, mirrored, similarity = candidates[enough], mirrored[enough], similarity[enough]
        for (a, b), value, flipped in zip(candidates, similarity, mirrored, strict=True):
            earlier, later = sorted((int(distinct[a]), int(distinct[b])))
            pairs.append(DuplicatePair(earlier, later, round(float(value), 4), bool(flipped)))
    best = {(p.first, p.second): p for p in sorted(pairs, key=lambda p: p.similarity)}
    return sorted(best.values())


def first_of_each(digests: Sequence[str]) -> dict[str, int]:
    """{digest: its first position}, ordered by position, without the "" of unreadable files."""
    first: dict[str, int] = {}
    for i, digest in enumerate(digests):
        if digest:
            first.setdefault(digest, i)
    return first


def _candidates(pixels: np.ndarray, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images with similar low frequencies: (m, 2) positions, the cropped image first, and (m,) mirrored."""
    count = len(pixels)
    # (windows · n, 63)
    descriptions = np.concatenate([_in_chunks(partial(_describe, window=window), pixels) for window in _WINDOWS])
    wholes = descriptions[:count]
    odd = np.tile(np.arange(_FREQUENCIES) % 2, _FREQUENCIES)[1:]
    queries = np.concatenate([wholes, wholes * (1 - 2 * odd).astype(np.float32)])  # originals and mirror images
    query, other = find_neighbours(queries, descriptions, count, _ALIKE, _TABLES, draws)
    return np.stack([query % count, other], axis=1), query >= count


def _compare(pixels: np.ndarray, pairs: np.ndarray, mirrored: np.ndarray, spans: list[Span]) -> np.ndarray:
    """Correlation of each pair's first image with the best-matching part of the second, at 16 × 16 pixels; (m,)."""
    side = SIDE // 2
    sampling = np.concatenate([_sampling(span, side) for span in spans])
    whole = _sampling(_WHOLE, side)
    best = np.zeros(len(pairs), dtype=np.float32)
    for part in np.array_split(np.arange(len(pairs)), len(pairs) * len(spans) ** 2 // 2**16 + 1):
        first, second = (pixels[pairs[part, member]].astype(np.float32) for member in (0, 1))
        first = np.where(mirrored[part, None, None], first[:, :, ::-1], first)
        first = _normalize(whole @ first @ whole.T).reshape(-1, side, side)
        windows = (sampling @ second @ sampling.T).reshape(-1, len(spans), side, len(spans), side)
        sums = windows.sum(axis=(2, 4))
        squares = np.einsum("maibj,maibj->mab", windows, windows)
        products = np.einsum("maibj,mij->mab", windows, first)
        variances = np.maximum(squares - sums**2 / side**2, 1e-6)
        best[part] = (products / np.sqrt(variances)).max(axis=(1, 2))
    return best


def _in_chunks(function: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Apply `function` to the pixels as float32, in chunks, because float32 takes four times the memory."""
    parts = np.array_split(pixels, len(pixels) // _AT_ONCE + 1)
    return np.concatenate([function(part.astype(np.float32)) for part in parts])


def _cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    """The part `window` of images (n, 32, 32), resampled to (n, 32, 32)."""
    rows, columns = (_sampling(span, SIDE) for span in window)
    return rows @ pixels @ columns.T


def _sampling(span: Span, side: int) -> np.ndarray:
    """(side, 32) bicubic weights that resample the part `span` of 32 pixels to `side` pixels (32 or 16)."""
    low, high = span
    places = (low + (np.arange(SIDE) + 0.5) / SIDE * (high - low)) * SIDE - 0.5
    away = np.abs(places.clip(0, SIDE - 1)[:, None] - np.arange(SIDE))
    near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.reshape(side, SIDE // side, SIDE).mean(axis=1).astype(np.float32)


def _describe(pixels: np.ndarray, window: Window) -> np.ndarray:
    """Low frequencies of a window without the mean, times the frequency, as unit vectors (n, 63)."""
    spectrum = dctn(_cut(pixels, window), axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES]
    lines = np.arange(_FREQUENCIES, dtype=np.float32)
    weighted = spectrum * np.hypot(lines[:, None], lines)
    return unit(weighted.reshape(len(pixels), -1)[:, 1:])


def _normalize(pixels: np.ndarray) -> np.ndarray:
    flat = pixels.reshape(len(pixels), pixels.shape[1] * pixels.shape[2])
    return unit(flat - flat.mean(axis=1, keepdims=True))
