"""Approximate nearest neighbours by random-hyperplane hashing (Charikar 2002).

Time and memory grow linearly with the number of vectors. Vectors on the same side of all planes are compared; several
tables with different planes make misses unlikely.
"""

import numpy as np

_MOST_IN_BUCKET = 64  # comparisons per vector and table, which bounds the cost of large clusters
_AT_ONCE = 2**16  # vectors


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d), each divided by its Euclidean norm."""
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


def find_neighbours(
    wanted: np.ndarray, given: np.ndarray, images: int, least: float, tables: int, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Most pairs of vectors of different images whose dot product is at least `least`.

    A pair of vectors in both `wanted` and `given` is found from either side. Only some pairs are compared in
    large clusters of similar vectors.

    Args:
        wanted: (m, d) float32 unit vectors; row i belongs to image i modulo `images`.
        given: (n, d) float32 unit vectors, with the same numbering.
        images: number of images.
        least: least dot product, between 0 and 1.
        tables: number of hash tables; more tables find more pairs.
        draws: generator of the planes.

    Returns:
        (k,) rows of `wanted` and (k,) similar images, without repetitions.
    """
    bits = int(np.log2(len(given))) + 3
    weights = 1 << np.arange(bits, dtype=np.int64)
    found = np.empty(0, dtype=np.int64)
    for _ in range(tables):
        planes = draws.standard_normal((given.shape[1], bits)).astype(np.float32)
        keys = ((given @ planes) > 0) @ weights
        order = keys.argsort(kind="stable")
        keys = keys[order]
        matches = []
        for first in range(0, len(wanted), _AT_ONCE):
            buckets = ((wanted[first : first + _AT_ONCE] @ planes) > 0) @ weights
            start = np.searchsorted(keys, buckets)
            length = np.minimum(np.searchsorted(keys, buckets, side="right") - start, _MOST_IN_BUCKET)
            row = first + np.repeat(np.arange(len(buckets)), length)
            offset = np.arange(len(row)) - np.repeat(length.cumsum() - length, length)
            other = order[np.repeat(start, length) + offset]
            differ = row % images != other % images
            row, other = row[differ], other[differ]
            is_similar = np.einsum("ij,ij->i", wanted[row], given[other]) >= least
            matches.append(row[is_similar] * images + other[is_similar] % images)
        found = np.union1d(found, np.concatenate(matches))
    row, image = np.divmod(found, images)
    return row, image
