"""Opens a dataset: lists its images, checks that they are readable, and cuts the splits that it lacks."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from sports_lightning.data.class_names import first_five, normalize
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.file_hashes import FileCheck, check_files, printable, report_first_images
from sports_lightning.data.folder_layout import SPLITS, UNSPLIT
from sports_lightning.data.formats import limit_pixels
from sports_lightning.data.image_table import ImageTable
from sports_lightning.data.source import list_dataset
from sports_lightning.data.value_range import (
    Choose,
    Setting,
    ValueRange,
    choose_value_range,
    value_range_for_checkpoint,
)
from sports_lightning.errors import UserError
from sports_lightning.split.cut import cut, shares_to_cut
from sports_lightning.split.near_copies import find_near_copies
from sports_lightning.split.split_file import previous_splits
from sports_lightning.storage.disk_cache import resolve_cache_dir

log = logging.getLogger(__name__)


def open_dataset(
    data: DictConfig,
    splits: list[str],
    classes: list[str] | None = None,
    choose: Choose = choose_value_range,
    may_cut: bool = False,
) -> DatasetIndex:
    """Open the dataset that `conf/data/*.yaml` names, and check that every image is readable.

    Warnings name classes without images in "val" or "test", and an image that is in two classes of a split.

    Args:
        data: the config; it decides whether the dataset is generated or downloaded first.
        splits: which of "train", "val", "test" to open.
        classes: the expected classes; by default those of `train`.
        choose: chooses the value range of the dataset; the default is for a new training.
        may_cut: cut splits that are missing (see `cut`); otherwise missing ones are an error.

    Raises:
        UserError: missing or empty folders, unknown classes, unreadable files, images that can't be split, or 16- or
            32-bit images without a value range.
    """
    limit_pixels(data.max_pixels)
    table = list_dataset(data)
    is_cut = may_cut and shares_to_cut(table, data) is not None
    if is_cut:
        classes = table.check_classes(table.classes, classes)
        table, checks = _read(table, data)
        previous = data.split.previous and previous_splits(table, Path(str(data.split.previous)).expanduser())
        pairs = _near_copies(table, checks, data)
        cut_table = cut(table, [check.digest for check in checks], pairs, data, previous)
        check_of = dict(zip(table.paths, checks, strict=True))
        table, checks = cut_table, [check_of[path] for path in cut_table.paths]
        _log_cut(table, data)
    elif UNSPLIT in table.classes:
        raise UserError(
            f"{table.places[UNSPLIT]} has no splits: to use those of a training, set data.manifest=RUN/split.csv"
        )
    classes = table.check_classes(splits, classes)
    opened = table
    if not is_cut:
        opened, checks = _read(table.take(table.rows_of(splits)), data)
    index = _index(opened, checks, splits, classes, data, choose)
    _check_classes(index, opened)
    for name, split in index.splits.items():
        _warn_of_two_labels(split, table.places[name])
    if data.folds:
        index = index.with_pool()
    return replace(index, table=table, is_recorded=bool(is_cut or data.manifest or table.origin))


def _read(table: ImageTable, data: DictConfig) -> tuple[ImageTable, list[FileCheck]]:
    """The readable images and their checks.

    Raises:
        UserError: an image is unreadable, unless `data.skip_unreadable`.
    """
    checks = check_files(table.root, table.paths, resolve_cache_dir(data))
    report_first_images(checks)
    unreadable = {path: check.problem for path, check in zip(table.paths, checks, strict=True) if check.problem}
    if not unreadable:
        return table, checks
    listed = first_five([f"{printable(table.root / path)}: {why}" for path, why in unreadable.items()], "; ")
    if not data.skip_unreadable:
        raise UserError(
            f"{len(unreadable)} unreadable: {listed}; repair or remove them, or set data.skip_unreadable=true"
        )
    log.warning("skipped %d unreadable: %s", len(unreadable), listed)
    good = [i for i, check in enumerate(checks) if not check.problem]
    return table.take(good), [checks[i] for i in good]


def _near_copies(table: ImageTable, checks: list[FileCheck], data: DictConfig) -> list[tuple[int, int]]:
    """Rows of near copies; images of 16 and 32 bits are compared in the value range of all images."""
    value_range = choose_value_range(data.value_range, checks, str(table.root))
    digests = [check.digest for check in checks]
    pairs = find_near_copies(table.root, list(table.paths), digests, value_range, resolve_cache_dir(data))
    return [(pair.first, pair.second) for pair in pairs]


def _log_cut(table: ImageTable, data: DictConfig) -> None:
    assert table.groups is not None
    counts = " + ".join(f"{(table.splits == code).sum():,} {split}" for code, split in enumerate(SPLITS))
    _, sizes = np.unique(table.groups, return_counts=True)
    together = f"{(sizes > 1).sum():,} groups of near copies, or of one group in the manifest, are in one split each"
    fold = f"fold {data.fold} of {data.folds} is test; " if data.fold is not None else ""
    log.info("split by class: %s images; %s%s (data.split.seed=%d)", counts, fold, together, data.split.seed)


def _index(
    table: ImageTable, checks: list[FileCheck], splits: list[str], classes: list[str], data: DictConfig, choose: Choose
) -> DatasetIndex:
    label_of = {normalize(name): label for label, name in enumerate(classes)}
    labels = np.array([label_of.get(normalize(name), -1) for name in table.names])[table.labels]
    rows = {name: table.rows_of([name]).tolist() for name in splits}
    opened = {
        name: Split(
            (table.paths[i] for i in found),
            labels[found],
            (checks[i].digest for i in found),
            None if table.groups is None else table.groups[found],
        )
        for name, found in rows.items()
    }
    checks_of = {name: [checks[i] for i in found] for name, found in rows.items()}
    value_range = _value_range(data.value_range, checks_of, choose, table.root, table.places["test"])
    if value_range is not None:
        log.info("values of 16- and 32-bit images: %g is black, %g is white (data.value_range)", *value_range)
    return DatasetIndex(table.root, classes, opened, value_range)


def _value_range(
    setting: Setting, checks: dict[str, list[FileCheck]], choose: Choose, root: Path, test_place: str
) -> ValueRange | None:
    """The value range of the splits; that of "train" and "val" does not depend on whether "test" is opened too."""
    chosen_from = [name for name in checks if name != "test"] or ["test"]
    chosen = [check for name in chosen_from for check in checks[name]]
    value_range = choose(setting, chosen, str(root))
    if "test" not in checks or "test" in chosen_from:
        return value_range
    colors = [check for check in chosen if check.high_depth == "color"]  # dark ones may be in "test" only
    return value_range_for_checkpoint(value_range, setting, [*checks["test"], *colors], test_place)


def _check_classes(index: DatasetIndex, table: ImageTable) -> None:
    for name in index.splits:
        place = table.places[name]
        missing = [index.classes[label] for label, count in enumerate(index.class_counts(name)) if not count]
        if missing and (name == "train" or len(missing) == len(index.classes)):
            raise UserError(f"class {missing[0]!r} has no readable images in {place}")
        if missing:
            listed = first_five([printable(name) for name in missing])
            log.warning("%s has no images of %s: metrics cover the classes that occur", place, listed)


def _warn_of_two_labels(split: Split, place: str) -> None:
    """Name one of the images that are in two classes of a split."""
    first: dict[str, int] = {}
    doubles = [
        i
        for i, (label, digest) in enumerate(zip(split.labels.tolist(), split.digests, strict=True))
        if split.labels[first.setdefault(digest, i)] != label
    ]
    if doubles:
        example, copy = (printable(split.paths[i]) for i in (first[split.digests[doubles[0]]], doubles[0]))
        log.warning(
            "%s has the same image in two classes, such as %s and %s, %d in all: audit lists them",
            place, example, copy, len(doubles),
        )  # fmt: skip
