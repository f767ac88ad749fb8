"""Dataset scan: every file of every split, and which images are duplicates.

Unlike `data.image_folder`, the scan refuses nothing, because it reports the errors in the data.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.dataset_index import DatasetIndex, split_fingerprint
from sports_lightning.data.file_hashes import FileCheck, check_files
from sports_lightning.data.folder_layout import SPLITS
from sports_lightning.data.formats import is_too_large, pixel_limit
from sports_lightning.data.image_folder import describe_nested
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.data.source import list_dataset
from sports_lightning.data.value_range import Choose, Setting, ValueRange, choose_value_range
from sports_lightning.errors import UserError
from sports_lightning.split.dataset import open_dataset
from sports_lightning.split.duplicates import DuplicatePair, first_of_each
from sports_lightning.split.near_copies import compare_images, compare_in_any_order
from sports_lightning.split.thumbnails import Thumbnails
from sports_lightning.storage.disk_cache import resolve_cache_dir

log = logging.getLogger(__name__)

NO_SPLIT = "unsplit"  # the split of images that are in none


@dataclass(frozen=True)
class DatasetScan:
    """The image files of a dataset, in the order train, val, test; the lists are parallel.

    Attributes:
        root: the folder.
        splits, labels: split ("train", "val", "test" or "unsplit") and class of each file.
        paths: relative to the root.
        digests: digest of each file's content.
        problems: why a file can't be read; "" if it can.
        thumbnails: small gray versions, sizes and modes.
        pairs: duplicate images (see `duplicates`).
        classes: those of each existing split, those without images too.
        value_range: the values of 16- and 32-bit pixels that are black and white.
        ignored: number of files that are not read as images, by extension.
        nested: which folders below class folders are taken together, as text.
        several: paths of animations and files of several pages, of which only the first image is used.
    """

    root: Path
    splits: list[str]
    labels: list[str]
    paths: list[str]
    digests: list[str]
    problems: list[str]
    thumbnails: Thumbnails
    pairs: list[DuplicatePair]
    classes: dict[str, list[str]]
    value_range: ValueRange | None = None
    ignored: Counter[str] = field(default_factory=Counter)
    nested: str = ""
    several: list[str] = field(default_factory=list)

    def fingerprint(self, split: str) -> str:
        """Like `DatasetIndex.fingerprint`."""
        readable = [i for i, name in enumerate(self.splits) if name == split and not self.problems[i]]
        return split_fingerprint([self.labels[i] for i in readable], [self.digests[i] for i in readable])

    @cached_property
    def leaking(self) -> list[DuplicatePair]:
        """(earlier, later) for every image that an earlier split contains too, with the first such copy.

        Linear in the number of files: only the first of several byte-identical files can be the earliest copy.
        """
        first = first_of_each(self.digests)
        earliest: dict[str, DuplicatePair] = {}  # digest → the pair with its earliest copy
        for pair in self.pairs:
            digests = self.digests[pair.first], self.digests[pair.second]
            for own, other in (digests, digests[::-1]):
                if own not in earliest or first[other] < earliest[own].first:
                    earliest[own] = pair._replace(first=first[other])
        found = []
        for i, digest in enumerate(self.digests):
            copy = earliest.get(digest)
            if copy and copy.first < i and self.splits[copy.first] != self.splits[i]:
                found.append(copy._replace(second=i))
        return sorted(found)

    def leaks(self, split: str) -> set[str]:
        """Paths of the images of `split` that an earlier split contains too."""
        return {self.paths[pair.second] for pair in self.leaking if self.splits[pair.second] == split}


def open_and_scan(
    data: DictConfig,
    splits: list[str],
    classes: list[str] | None = None,
    choose: Choose = choose_value_range,
) -> tuple[DatasetIndex, DatasetScan | None]:
    """Open the dataset of a run, and scan it unless `data.audit` is false.

    Args:
        data: `conf/data/*.yaml`.
        splits: see `open_dataset`.
        classes: see `open_dataset`.
        choose: see `open_dataset`.

    Raises:
        UserError: see `open_dataset`.
    """
    index = open_dataset(data, splits, classes, choose)
    return index, scan_opened(index, data)


def scan_opened(index: DatasetIndex, data: DictConfig) -> DatasetScan | None:
    """Scan all splits of an opened dataset; None if `data.audit` is false."""
    if not data.audit:
        return None
    return scan_dataset(index.table or list_dataset(data), resolve_cache_dir(data), index.value_range or "auto")


def scan_dataset(table: ImageTable, cache_dir: Path, value_range: Setting = "auto") -> DatasetScan:
    """Scan all images of a dataset; the results for these images are cached.

    Args:
        table: the images.
        cache_dir: `data.cache_dir`.
        value_range: `data.value_range`, or the range in use.

    Raises:
        UserError: there are no images.
    """
    if not len(table):
        places = ", ".join(dict.fromkeys(table.places.values()))
        raise UserError(f"data.root={table.root} has no images in {places}, one sub-folder per class")
    splits = [SPLITS[code] if code != UNASSIGNED else NO_SPLIT for code in table.splits.tolist()]
    paths = list(table.paths)
    checks = check_files(table.root, paths, cache_dir)
    digests = ["" if check.problem else check.digest for check in checks]
    used_range = _value_range(value_range, checks, splits, table.root)
    # Groups: the splits were cut by near copies, or are to be.
    compare = compare_images if table.groups is None else compare_in_any_order
    thumbnails, pairs = compare(table.root, paths, digests, used_range, cache_dir)
    return DatasetScan(
        root=table.root,
        splits=splits,
        labels=[table.names[label] for label in table.labels.tolist()],
        paths=paths,
        digests=[check.digest for check in checks],
        problems=[check.problem for check in checks],
        thumbnails=thumbnails,
        pairs=pairs,
        classes={split or NO_SPLIT: names for split, names in table.classes.items()},
        value_range=used_range,
        ignored=table.ignored,
        nested=describe_nested(table),
        several=[path for path, check in zip(paths, checks, strict=True) if check.has_more],
    )


def _value_range(setting: Setting, checks: list[FileCheck], splits: list[str], root: Path) -> ValueRange | None:
    """The value range of the thumbnails, that of a training; where "auto" finds none, a warning tells why."""
    if setting != "auto":
        return float(setting[0]), float(setting[1])
    try:
        for is_test in (False, True):
            chosen_from = [check for check, name in zip(checks, splits, strict=True) if (name == "test") == is_test]
            if value_range := choose_value_range(setting, chosen_from, str(root)):
                return value_range
    except UserError as error:
        log.warning("%s", error)
    return None


def find_leaks(scan: DatasetScan | None, split: str, trained_on: str) -> set[str] | None:
    """Paths of the images of `split` that an earlier split contains too.

    Returns None if they are not known: the dataset was not scanned (`data.audit=false`), or its training images are not
    those that the classifier was trained on.

    Args:
        scan: the dataset scan, or None.
        split: "train", "val" or "test".
        trained_on: fingerprint of the classifier's training images (see `ClassifierSpec`).
    """
    if scan is None or scan.fingerprint("train") != trained_on:
        return None
    return scan.leaks(split)


def why_leaks_are_unknown(scan: DatasetScan) -> str:
    """The reason for which `find_leaks` returns None for this scan."""
    if any(name == "train" and is_too_large(why) for name, why in zip(scan.splits, scan.problems, strict=True)):
        return f"training images have more pixels than data.max_pixels={pixel_limit()}: set the limit of the training"
    return "data.root does not hold the images that this checkpoint was trained on"
