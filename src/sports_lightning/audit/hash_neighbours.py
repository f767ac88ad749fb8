"""Vectors that are alike among many, found without comparing all with all.

Random-hyperplane hashing (Charikar 2002): time and memory grow with the number of vectors, not with its square. What
lies on the same side of all planes is compared; several tables, each with planes of its own, make a miss unlikely.
"""

import numpy as np

_MOST_IN_BUCKET = 64  # vectors of a table that one is compared with, so that a thousand of a kind stay affordable
_AT_ONCE = 2**16  # vectors


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d), each divided by its length."""
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


def find_neighbours(
    wanted: np.ndarray, given: np.ndarray, images: int, least: float, tables: int, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of vectors of different images whose scalar product is `least` or more; most of them.

    A pair among vectors that are both wanted and given is found from either side. Of hundreds that are all alike only
    some are compared.

    Args:
        wanted: (m, d) float32 of length 1; row i is of image i modulo `images`.
        given: (n, d) float32, likewise.
        images: how many there are.
        least: between 0 and 1.
        tables: how many; more find more.
        draws: of the planes.

    Returns:
        (k,) rows of `wanted`, and (k,) images that they are like; none twice.
    """
    bits = int(np.log2(len(given))) + 3
    weights = 1 << np.arange(bits, dtype=np.int64)
    found = np.empty(0, dtype=np.int64)
    for _ in range(tables):
        planes = draws.standard_normal((given.shape[1], bits)).astype(np.float32)
        keys = ((given @ planes) > 0) @ weights
        order = keys.argsort(kind="stable")
        keys = keys[order]
        of_table = []
        for first in range(0, len(wanted), _AT_ONCE):
            sought = ((wanted[first : first + _AT_ONCE] @ planes) > 0) @ weights
            start = np.searchsorted(keys, sought)
            length = np.minimum(np.searchsorted(keys, sought, side="right") - start, _MOST_IN_BUCKET)
            row = first + np.repeat(np.arange(len(sought)), length)
            offset = np.arange(len(row)) - np.repeat(length.cumsum() - length, length)
            other = order[np.repeat(start, length) + offset]
            differ = row % images != other % images
            row, other = row[differ], other[differ]
            alike = np.einsum("ij,ij->i", wanted[row], given[other]) >= least
            of_table.append(row[alike] * images + other[alike] % images)
        found = np.union1d(found, np.concatenate(of_table))
    row, image = np.divmod(found, images)
    return row, image
