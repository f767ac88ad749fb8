"""Assigns images to splits or folds: stratified by class, with every group of images in one split.

The shares of each class are met as closely as its groups allow. Groups of several images are assigned first, the
largest first, each to the split that lacks most of its images; the remaining images fill the splits up. Where every
image is a group of its own, the shares are exact up to rounding.
"""

import numpy as np


def assign(
    labels: np.ndarray,
    groups: np.ndarray,
    wanted: np.ndarray,
    draws: np.random.Generator,
    given: np.ndarray,
    every_class_in: int | None = None,
) -> np.ndarray:
    """Assign each image to a part (a split or a fold).

    Args:
        labels: (n,) int64, the class of each image.
        groups: (n,) int64, images with the same number are assigned to the same part.
        wanted: (classes, parts) float64, the number of images that each part should have of each class.
        draws: generator of the random order.
        given: (n,) int32, parts of images that are assigned already, and -1 elsewhere. They do not change, and the rest
            of their group is assigned to the same part (that of the group's first assigned image).
        every_class_in: the part that gets the first group of every class, unless it is given an image of the class. If
            all groups are single, it gets one of them.

    Returns:
        (n,) int32, a part for each image.
    """
    parts: np.ndarray = given.astype(np.int32)
    lacking = wanted.astype(np.float64)
    _follow_groups(groups, parts)
    assigned = parts >= 0
    np.subtract.at(lacking, (labels[assigned], parts[assigned]), 1)
    rest = draws.permutation(np.flatnonzero(~assigned))
    _, inverse, sizes = np.unique(groups[rest], return_inverse=True, return_counts=True)
    is_single = sizes[inverse] == 1
    _assign_groups(rest[~is_single], labels, groups, lacking, parts, every_class_in)
    _assign_singles(rest[is_single], labels, lacking, parts, every_class_in)
    return parts


def assign_folds(
    labels: np.ndarray, groups: np.ndarray, folds: int, classes: int, draws: np.random.Generator
) -> np.ndarray:
    """Assign each image to one of `folds` folds of equal shares of each class; (n,) int32. See `assign`."""
    wanted = np.repeat(np.bincount(labels, minlength=classes)[:, None] / folds, folds, axis=1)
    return assign(labels, groups, wanted, draws, np.full(len(labels), -1, np.int32))


def _follow_groups(groups: np.ndarray, parts: np.ndarray) -> None:
    """Assign the images of partly assigned groups, in place."""
    known = np.flatnonzero(parts >= 0)
    if not len(known):
        return
    numbers, first = np.unique(groups[known], return_index=True)
    place = np.searchsorted(numbers, groups).clip(max=len(numbers) - 1)
    follows = (parts < 0) & (numbers[place] == groups)
    parts[follows] = parts[known[first]][place[follows]]


def _assign_groups(
    images: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    lacking: np.ndarray,
    parts: np.ndarray,
    every_class_in: int | None,
) -> None:
    """Assign groups of several images, the largest first; `lacking` and `parts` change in place."""
    if not len(images):
        return
    has_class = np.zeros(len(lacking), dtype=bool)
    has_class[labels[parts == every_class_in]] = every_class_in is not None
    order = images[np.argsort(groups[images], kind="stable")]
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    place = np.empty(groups.max() + 1, dtype=np.int64)
    place[groups[images][::-1]] = np.arange(len(images))[::-1]  # the position of a group's first image in random order
    for group in sorted(members, key=lambda group: (-len(group), place[groups[group[0]]])):
        classes, counts = np.unique(labels[group], return_counts=True)
        # The decrease of the sum of squares of what is lacking if the group goes to a part, up to a constant.
        part = int((counts @ lacking[classes]).argmax())
        if every_class_in is not None and not has_class[classes].all():
            part = every_class_in
            has_class[classes] = True
        parts[group] = part
        lacking[classes, part] -= counts


def _assign_singles(
    images: np.ndarray, labels: np.ndarray, lacking: np.ndarray, parts: np.ndarray, every_class_in: int | None
) -> None:
    """Assign images that are groups of their own, class by class; `parts` changes in place.

    Each size is rounded up or down. What a part lost by rounding in earlier classes it gains in later ones.
    """
    order = images[np.argsort(labels[images], kind="stable")]
    has_class = np.zeros(len(lacking), dtype=bool)
    has_class[labels[parts == every_class_in]] = True
    owed = np.zeros(lacking.shape[1])
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else ():
        shares = np.maximum(lacking[labels[members[0]]], 0)
        shares = shares * len(members) / shares.sum() if shares.any() else np.eye(len(owed))[0] * len(members)
        sizes = np.floor(shares + 1e-9).astype(np.int64)
        owed += shares - sizes
        first = np.argsort(-owed, kind="stable")[: len(members) - sizes.sum()]
        sizes[first] += 1
        owed[first] -= 1
        if every_class_in is not None and not sizes[every_class_in] and not has_class[labels[members[0]]]:
            sizes[sizes.argmax()] -= 1
            sizes[every_class_in] = 1
        parts[members] = np.repeat(np.arange(len(sizes)), sizes)
