"""Pairs of images that share blobs at matching places: candidates for `geometry`, which compares their pixels.

Signatures are hashed by some of their bits (Indyk and Motwani 1998). A bucket with many blobs, as edges and letters
have, is compared in part, so that time and memory grow linearly with the number of images.
"""

from typing import NamedTuple

import numpy as np

from sports_lightning.split.hash_neighbours import thin_out

_TABLES = 4
_DIFFERENT = 10  # bits of 64 that differ, at most; unrelated windows differ in 32 ± 4
_NEXT = 4  # blobs of a bucket that each blob is compared with
_LEAST = 3  # blobs at matching places
_ZOOM, _SHIFT = 0.4, 0.12  # how far matches of a pair may disagree: log2 of the scale, and place in units of the image
_TRIED = 12  # matches of a pair of images
_OF_IMAGE = (6, 2, 4)  # candidates kept of an image that has more than 6: the first 2 and the 4 with most shared blobs


class BlobMatches(NamedTuple):
    """Pairs of images with blobs at matching places.

    Attributes:
        pairs: (k, 2) int64 images, first < second.
        mirrored: (k,) bool: the first image matches when it is mirrored.
        transforms: (k, 3): a place of the first image (mirrored: about x = 0), times the first number and plus the
            other two, is the place in the second one.
    """

    pairs: np.ndarray
    mirrored: np.ndarray
    transforms: np.ndarray


def match_blobs(image: np.ndarray, place: np.ndarray, signature: np.ndarray) -> BlobMatches:
    """Pairs of images with at least three matching blobs.

    Args:
        image: (m,) int32, the image of each blob, ascending.
        place: (m, 3) float32, see `Blobs`.
        signature: (m, 2) uint64, see `Blobs`.
    """
    first, second, mirrored = _similar_blobs(image, signature)
    pair = np.stack([image[first], image[second], mirrored], axis=1).astype(np.int64)
    order = np.lexsort(pair.T[::-1])
    pair, first, second, mirrored = pair[order], first[order], second[order], mirrored[order]
    zoom, shift = _transforms(place[first], place[second], mirrored)
    starts = np.flatnonzero(np.r_[True, (pair[1:] != pair[:-1]).any(axis=1)]) if len(pair) else np.zeros(0, np.int64)
    support, anchor = _support(starts, len(pair), zoom, shift)
    kept = np.flatnonzero(support >= _LEAST)
    for one, other in ((0, 1), (1, 0)):
        pairs = pair[starts[kept]]
        kept = kept[thin_out(pairs[:, one], pairs[:, other], support[kept].astype(np.float32), *_OF_IMAGE)]
    pairs, best = pair[starts[kept]], anchor[kept]
    return BlobMatches(pairs[:, :2], pairs[:, 2].astype(bool), np.c_[2 ** zoom[best], shift[best]])


def _similar_blobs(image: np.ndarray, signature: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct pairs of blobs of different images with similar signatures; the second ones may be mirrored."""
    count = len(image)
    bits = int(np.clip(np.log2(max(count, 2)) + 3, 8, 40))
    draws = np.random.default_rng(0)
    found = np.empty(0, dtype=np.int64)
    for _ in range(_TABLES):
        chosen = draws.choice(64, bits, replace=False).astype(np.uint64)
        keys = _select(signature[:, 0], chosen)
        order = keys.argsort(kind="stable")
        parts = [found]
        sorted_keys = keys[order]
        for step in range(1, _NEXT + 1):  # within the sorted keys, the next ones in the same bucket
            same = np.flatnonzero(sorted_keys[step:] == sorted_keys[:-step])
            parts.append(_checked(order[same], order[same + step], image, signature, 0))
        mirrored = _select(signature[:, 1], chosen)
        start, end = np.searchsorted(sorted_keys, mirrored), np.searchsorted(sorted_keys, mirrored, side="right")
        for step in range(_NEXT):
            has = np.flatnonzero(start + step < end)
            parts.append(_checked(has, order[start[has] + step], image, signature, 1))
        found = np.unique(np.concatenate(parts))
    rest, mirrored = np.divmod(found, 2)
    first, second = np.divmod(rest, count)
    return first, second, mirrored


def _select(signature: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Some bits of each signature, packed."""
    keys = np.zeros(len(signature), np.uint64)
    for i, bit in enumerate(chosen):
        keys |= ((signature >> bit) & np.uint64(1)) << np.uint64(i)
    return keys


def _checked(a: np.ndarray, b: np.ndarray, image: np.ndarray, signature: np.ndarray, side: int) -> np.ndarray:
    """The pairs of different images with similar signatures, each as one number."""
    differing = np.bitwise_count(signature[a, side] ^ signature[b, 0])
    kept = (image[a] != image[b]) & (differing <= _DIFFERENT)
    low, high = np.minimum(a[kept], b[kept]), np.maximum(a[kept], b[kept])
    return (low * len(image) + high) * 2 + side


def _transforms(first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log2 of the scale (k,) from the first blobs to the second, and where the first image's origin falls (k, 2)."""
    zoom = np.log2(second[:, 2] / first[:, 2])
    sign = np.stack([1 - 2 * mirrored, np.ones(len(mirrored))], axis=1)
    return zoom, second[:, :2] - (2**zoom)[:, None] * first[:, :2] * sign


def _support(starts: np.ndarray, count: int, zoom: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each group of matches of a pair of images, how many agree with the match that most agree with, and which."""
    lengths = np.diff(np.r_[starts, count])
    group = np.repeat(np.arange(len(starts)), lengths)
    support, best = np.zeros(len(starts), np.int64), starts.copy()
    for i in range(int(min(lengths.max(initial=0), _TRIED))):  # one match of every group at a time
        tried = starts + np.minimum(i, lengths - 1)
        anchor = tried[group]
        agree = (np.abs(zoom - zoom[anchor]) <= _ZOOM) & (np.abs(shift - shift[anchor]).max(axis=1) <= _SHIFT)
        number = np.bincount(group[agree], minlength=len(starts))
        best = np.where(number > support, tried, best)
        support = np.maximum(support, number)
    return support, best
