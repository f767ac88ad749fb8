"""Approximate nearest neighbours by random-hyperplane hashing (Charikar 2002).

Time and memory grow linearly with the number of vectors, whatever their similarity. Vectors on the same side of all
planes are compared; several tables with different planes make misses unlikely.
"""

import numpy as np

_MOST_IN_BUCKET = 64  # comparisons per vector and table, which bounds the cost of large clusters
_AT_ONCE = 2**16  # vectors
_PAIRS_AT_ONCE = 2**18
# A vector with more than _MOST neighbours keeps the _FIRST ones, which also link a large cluster to its first members,
# and the most similar ones.
_MOST, _FIRST = 16, 4


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d), each divided by its Euclidean norm."""
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


def find_neighbours(
    wanted: np.ndarray, given: np.ndarray, images: int, least: float, tables: int, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Most pairs of vectors of different images whose dot product is at least `least`.

    A pair of vectors in both `wanted` and `given` is found from either side. In large clusters of similar vectors only
    some pairs are compared, and at most 16 per row of `wanted` are returned.

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
    found, similarity = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    for _ in range(tables):
        planes = draws.standard_normal((given.shape[1], bits)).astype(np.float32)
        keys = ((given @ planes) > 0) @ weights
        order = keys.argsort(kind="stable")
        keys = keys[order]
        matches, products = [found], [similarity]
        for first in range(0, len(wanted), _AT_ONCE):
            buckets = ((wanted[first : first + _AT_ONCE] @ planes) > 0) @ weights
            start = np.searchsorted(keys, buckets)
            length = np.minimum(np.searchsorted(keys, buckets, side="right") - start, _MOST_IN_BUCKET)
            row = first + np.repeat(np.arange(len(buckets)), length)
            offset = np.arange(len(row)) - np.repeat(length.cumsum() - length, length)
            other = order[np.repeat(start, length) + offset]
            differ = row % images != other % images
            row, other = row[differ], other[differ]
            parts = np.array_split(np.arange(len(row)), len(row) // _PAIRS_AT_ONCE + 1)
            product = np.concatenate([np.einsum("ij,ij->i", wanted[row[p]], given[other[p]]) for p in parts])
            is_similar = product >= least
            matches.append(row[is_similar] * images + other[is_similar] % images)
            products.append(product[is_similar])
        found, similarity = _distinct(np.concatenate(matches), np.concatenate(products))
        kept = thin_out(*np.divmod(found, images), similarity, _MOST, _FIRST, _MOST - _FIRST)
        found, similarity = found[kept], similarity[kept]
    row, image = np.divmod(found, images)
    return row, image


def _distinct(found: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of `found`, sorted, and the largest similarity of each."""
    order = np.lexsort((-similarity, found))
    values, first = np.unique(found[order], return_index=True)
    return values, similarity[order][first]


def thin_out(
    rows: np.ndarray, others: np.ndarray, similarity: np.ndarray, most: int, first: int, best: int
) -> np.ndarray:
    """Which pairs to keep so that their number grows linearly with the number of rows; (n,) bool.

    All pairs of rows with up to `most` pairs are kept. Other rows keep those with the `first` lowest `others` and those
    with the `best` highest similarity.

    Args:
        rows, others, similarity: (n,) of each pair.
        most, first, best: numbers of pairs per row.
    """

    def place(order: np.ndarray) -> np.ndarray:
        """The position of each pair within its row, in an order that groups the pairs by row."""
        places = np.empty(len(rows), dtype=np.int64)
        places[order] = np.arange(len(rows)) - np.searchsorted(rows[order], rows[order])
        return places

    count = np.bincount(rows)[rows] if len(rows) else rows
    kept: np.ndarray = count <= most
    kept |= place(np.lexsort((others, rows))) < first
    kept |= place(np.lexsort((others, -similarity, rows))) < best
    return kept
