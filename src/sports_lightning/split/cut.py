"""Cuts a dataset into splits, or into folds for cross-validation, by class and by groups of near copies."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from omegaconf import DictConfig

from sports_lightning.data.class_names import listed
from sports_lightning.data.folder_layout import SPLITS, UNSPLIT
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.errors import UserError
from sports_lightning.split.assignment import assign, assign_folds
from sports_lightning.split.groups import join_groups

TRAIN, VAL, TEST = range(len(SPLITS))
_AUTO_TEST = 0.1  # data.split.test=auto, for images that are in no split


def shares_to_cut(table: ImageTable, data: DictConfig) -> tuple[float, float] | None:
    """The shares of val and test, 0 for a split that is not cut; None if the dataset has the splits that it needs.

    Images in no split are assigned to all splits. A missing validation split is taken from the training images, and a
    missing test split only if `data.split.test` is a number. In cross-validation, the test split is a fold.
    """
    val, test = data.split.val, data.split.test
    if data.fold is not None:
        return val, 0.0
    if UNSPLIT in table.classes:
        return val, _AUTO_TEST if test == "auto" else test
    if "train" not in table.classes:
        return None
    missing = 0.0 if "val" in table.classes else val, 0.0 if "test" in table.classes or test == "auto" else test
    return missing if any(missing) else None


def cut(
    table: ImageTable,
    digests: Sequence[str],
    pairs: Iterable[tuple[int, int]],
    data: DictConfig,
    previous: np.ndarray | None = None,
) -> ImageTable:
    """Assign images to splits, and return the table with the splits and groups of all images that are in a split.

    The result depends on the images, their classes and groups and the settings, not on the names of files.

    Args:
        table: all images, each of them readable.
        digests: of their content.
        pairs: rows of near copies.
        data: `conf/data/*.yaml`, with which `shares_to_cut` are not None.
        previous: (n,) int8, positions in `SPLITS` that images keep, and `UNASSIGNED` for the others.

    Raises:
        UserError: a class has no training images, or a split has no images.
    """
    shares = shares_to_cut(table, data)
    assert shares
    groups = join_groups(len(table), pairs, table.groups)
    order = np.argsort(np.array(digests), kind="stable")
    splits = np.full(len(table), UNASSIGNED, dtype=np.int8)
    draws = np.random.default_rng(data.split.seed)
    if data.fold is not None:
        pool, fold = _fold(table, groups, order, data, draws)
        splits[fold] = TEST
        draws = np.random.default_rng([data.split.seed, data.fold])
        given = np.full(len(pool), UNASSIGNED)
    elif UNSPLIT in table.classes:
        pool, given = order, table.splits[order]
        if previous is not None:
            given = np.where(given == UNASSIGNED, previous[order], given)
    else:
        splits[:] = np.where(table.splits == TRAIN, UNASSIGNED, table.splits)
        pool = order[table.splits[order] == TRAIN]
        given = np.full(len(pool), UNASSIGNED) if previous is None else previous[pool]
    splits[pool] = _assign_splits(table.labels[pool], groups[pool], *shares, given, draws)
    rows = _in_order(table, splits)
    places = table.places
    if UNSPLIT in table.classes:
        places = {**places, **{split: f"{split} of {places[UNSPLIT]}" for split in SPLITS}}
    if data.fold is not None:
        places = {**places, "test": f"fold {data.fold} of {table.root}"}
    return _with_classes(replace(table, groups=groups, places=places).take(rows, splits[rows]), shares)


def _in_order(table: ImageTable, splits: np.ndarray) -> np.ndarray:
    """The rows of images that are in a split, by split, class and path: as a manifest of the splits will be read."""
    rows = np.flatnonzero(splits != UNASSIGNED).tolist()
    rows.sort(key=lambda row: (splits[row], table.names[table.labels[row]], table.paths[row]))
    return np.array(rows, dtype=np.int64)


def _fold(
    table: ImageTable, groups: np.ndarray, order: np.ndarray, data: DictConfig, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows outside and inside of the fold `data.fold`, in `order`.

    The images of a test split are left out, so that nothing is chosen by them.
    """
    pool = order[table.splits[order] != TEST]
    folds = assign_folds(table.labels[pool], groups[pool], data.folds, len(table.names), draws)
    if not (folds == data.fold).any():
        raise UserError(f"data.folds={data.folds}: fold {data.fold} gets none of the {len(pool)} images: set fewer")
    return pool[folds != data.fold], pool[folds == data.fold]


def _assign_splits(
    labels: np.ndarray, groups: np.ndarray, val: float, test: float, given: np.ndarray, draws: np.random.Generator
) -> np.ndarray:
    """(n,) int8 positions in `SPLITS`. A class gets an image for train first, then one for val, then one for test."""
    counts = np.bincount(labels)
    wanted = np.zeros((len(counts), len(SPLITS)))
    for split, share, others in ((VAL, val, 1), (TEST, test, 2 if val else 1)):
        if share:
            # Each size is rounded up or down, and their sum is exact.
            sizes = np.diff(np.round(np.cumsum(share * counts)), prepend=0)
            wanted[:, split] = np.maximum(sizes, counts > others)
    wanted[:, TRAIN] = counts - wanted.sum(axis=1)
    _leave_one_for_train(wanted, counts[:, None] * np.array([np.inf, val, test]))
    return assign(labels, groups, wanted, draws, given, every_class_in=TRAIN)


def _leave_one_for_train(wanted: np.ndarray, exact: np.ndarray) -> None:
    """Take an image of classes that have none for train from the split that has most more than its exact share."""
    while len(short := np.flatnonzero((wanted[:, TRAIN] < 1) & (wanted.sum(axis=1) > 0))):
        split = (wanted - exact)[short].argmax(axis=1)
        wanted[short, split] -= 1
        wanted[short, TRAIN] += 1


def _with_classes(table: ImageTable, shares: tuple[float, float]) -> ImageTable:
    """The table with the classes of each split, if every class has training images and no split is empty."""
    present = {split: table.labels[table.splits == code] for code, split in enumerate(SPLITS)}
    classes = {split: [table.names[i] for i in np.unique(labels)] for split, labels in present.items() if len(labels)}
    where = table.places.get(UNSPLIT, table.places["train"])
    if missing := {table.names[i] for i in np.unique(table.labels)} - set(classes.get("train", [])):
        raise UserError(
            f"{where}: no image of the class {listed(missing)} can be in train, because each belongs to a group with "
            "images of val or test: change the groups or the given splits"
        )
    for split, share in zip(("val", "test"), shares, strict=True):
        if share and split not in classes:
            raise UserError(
                f"{where}: no image is left for {split}, because classes have too few images or groups of images: add "
                f"some, or name images for {split} in a manifest"
            )
    return replace(table, classes=classes)
