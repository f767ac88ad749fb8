"""Groups of images that belong into the same split: near copies, and images of one scene, player or video."""

from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def join_groups(count: int, pairs: Iterable[tuple[int, int]], given: np.ndarray | None = None) -> np.ndarray:
    """The smallest groups such that paired images, and images of the same given group, are together.

    Args:
        count: number of images.
        pairs: positions of two images each, such as near copies.
        given: (count,) int64, images with the same number are in one group; None if there are no groups yet.

    Returns:
        (count,) int64, numbered from 0 in the order of each group's first image.
    """
    edges = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    if given is not None:
        _, first, inverse = np.unique(given, return_index=True, return_inverse=True)
        edges = np.concatenate([edges, np.stack([np.arange(count), first[inverse]], axis=1)])
    graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    groups: np.ndarray = order[inverse]
    return groups
