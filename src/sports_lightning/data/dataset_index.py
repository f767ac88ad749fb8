"""The index of a dataset: the paths, labels and digests of the images of each split."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sports_lightning.data.image_table import ImageTable
from sports_lightning.storage.packed_strings import PackedStrings


class Split:
    """The images of one split in a compact form: a million images take 100 MB.

    Attributes:
        paths: relative to the data root.
        labels: (n,) int64, the class of each image.
        digests: of each image's content, once the images have been read (see `file_hashes`).
        groups: (n,) int64, images with the same number are near copies or of one scene; None if that is not known.
        rows: (n,) int64, positions in `DatasetIndex.pool`; None without a pool.
    """

    def __init__(
        self,
        paths: Iterable[str],
        labels: ArrayLike,
        digests: Iterable[str] = (),
        groups: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.paths, self.digests, self.groups, self.rows = PackedStrings(paths), PackedStrings(digests), groups, rows
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def spread(self, count: int) -> "Split":
        """`count` of the images, in order and at equal distances, so that all classes have their share."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return self.take(chosen.tolist())

    def take(self, chosen: Sequence[int]) -> "Split":
        """The images at these positions."""
        digests = [self.digests[i] for i in chosen] if self.digests else []
        groups, rows = (None if values is None else values[chosen] for values in (self.groups, self.rows))
        return Split([self.paths[i] for i in chosen], self.labels[chosen], digests, groups, rows)


@dataclass(frozen=True)
class DatasetIndex:
    """A dataset on disk.

    Attributes:
        root: the folder.
        classes: class names in alphabetical order; their position is the label.
        splits: by name.
        value_range: the values of 16- and 32-bit pixels that are black and white (see `choose_value_range`), once the
            images have been read.
        table: all images of the dataset, also of splits that are not opened.
        is_recorded: whether the splits do not follow from the folders below `root`, so that a run has to record them.
        pool: in cross-validation, the images of all splits in the order of their paths, which is the same in all folds:
            what is computed once for the pool serves every fold. None otherwise.
    """

    root: Path
    classes: list[str]
    splits: dict[str, Split]
    value_range: tuple[float, float] | None = None
    table: ImageTable | None = None
    is_recorded: bool = False
    pool: Split | None = None

    def fingerprint(self, split: str) -> str:
        """Fingerprint of the content and classes of a split's images, in order; file names do not matter."""
        labels = (self.classes[label] for label in self.splits[split].labels)
        return split_fingerprint(labels, self.splits[split].digests)

    def with_pool(self) -> "DatasetIndex":
        """The index with the pool of its splits, and the position of each image in it."""
        parts = list(self.splits.values())
        paths = [path for split in parts for path in split.paths]
        digests = [digest for split in parts for digest in split.digests]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        labels = np.concatenate([split.labels for split in parts])[order]
        pool = Split([paths[i] for i in order], labels, [digests[i] for i in order])
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        ends = np.cumsum([len(split) for split in parts])[:-1]
        splits = {
            name: Split(split.paths, split.labels, split.digests, split.groups, rows)
            for (name, split), rows in zip(self.splits.items(), np.split(places, ends), strict=True)
        }
        return replace(self, splits=splits, pool=pool)

    def class_counts(self, split: str) -> list[int]:
        """Images per class, in the order of `classes`."""
        counts: list[int] = np.bincount(self.splits[split].labels, minlength=len(self.classes)).tolist()
        return counts

    def provenance(self) -> dict[str, Any]:
        """The root, the number of images and the fingerprint of each split, and the revision of a Hub dataset."""
        splits = {
            name: {"count": len(split), "fingerprint": self.fingerprint(name)} for name, split in self.splits.items()
        }
        revision = self.table.origin.get("revision") if self.table else None
        return {"root": str(self.root.absolute()), **({"revision": revision} if revision else {}), **splits}

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """(split, path, digest, class) of each image."""
        for name, split in self.splits.items():
            for path, digest, label in zip(split.paths, split.digests, split.labels, strict=True):
                yield name, path, digest, self.classes[label]


def split_fingerprint(labels: Iterable[str], digests: Iterable[str]) -> str:
    """`disk_cache.fingerprint` of the (class, digest) pairs of images in this order, without a list of them all."""
    content = hashlib.blake2b(digest_size=16)
    before = "["
    for pair in zip(labels, digests, strict=True):
        content.update((before + json.dumps(pair)).encode())
        before = ", "
    content.update(b"]" if before == ", " else b"[]")
    return content.hexdigest()
