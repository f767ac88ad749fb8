"""Which images there are: lists `root/{train,valid,test}/<class>/*` and checks it before anything else happens."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sports_lightning.errors import UserError
from sports_lightning.storage.packed_strings import PackedStrings

SPLIT_FOLDERS = {"train": "train", "val": "valid", "test": "test"}
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Split:
    """The images of one split, packed: a million of them take 100 MB.

    Attributes:
        paths: relative to the data root.
        labels: (n,) int64 class of each.
        digests: of each one's content, once the images have been read (see ledger).
    """

    def __init__(self, paths: Iterable[str], labels: ArrayLike, digests: Iterable[str] = ()) -> None:
        self.paths, self.digests = PackedStrings(paths), PackedStrings(digests)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class DatasetIndex:
    """A data set on disk: class names in alphabetical order (their position is the label) and its splits."""

    root: Path
    classes: list[str]
    splits: dict[str, Split]

    def fingerprint(self, split: str) -> str:
        """Of the content and the classes of a split's images, in their order; their names and places do not count."""
        labels = (self.classes[label] for label in self.splits[split].labels)
        return split_fingerprint(labels, self.splits[split].digests)

    def class_counts(self, split: str) -> list[int]:
        """Images per class, in the order of `classes`."""
        counts: list[int] = np.bincount(self.splits[split].labels, minlength=len(self.classes)).tolist()
        return counts

    def provenance(self) -> dict[str, Any]:
        """Where the images are, and for each split how many and their fingerprint."""
        splits = {
            name: {"count": len(split), "fingerprint": self.fingerprint(name)} for name, split in self.splits.items()
        }
        return {"root": str(self.root.absolute()), **splits}

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(split, path, digest) of each image."""
        for name, split in self.splits.items():
            for path, digest in zip(split.paths, split.digests, strict=True):
                yield name, path, digest


def split_fingerprint(labels: Iterable[str], digests: Iterable[str]) -> str:
    """Of images with these classes and digests, in this order: `store.fingerprint` of the pairs, one at a time."""
    content = hashlib.blake2b(digest_size=16)
    before = "["
    for pair in zip(labels, digests, strict=True):
        content.update((before + json.dumps(pair)).encode())
        before = ", "
    content.update(b"]" if before == ", " else b"[]")
    return content.hexdigest()


def list_images(folder: Path) -> list[str]:
    """Image files below `folder`, by extension, as sorted paths relative to it. Hidden entries are left out."""
    found = []
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        relative = os.path.relpath(directory, folder)
        found += [
            os.path.normpath(os.path.join(relative, name))
            for name in files
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(found)


def read_image_folder(root: Path, splits: Iterable[str], classes: list[str] | None = None) -> DatasetIndex:
    """List the data set under `root`.

    Args:
        root: folder that holds `train`, `valid`, `test`, each with one folder a class.
        splits: which of "train", "val", "test" to list.
        classes: the classes to expect; those of `train` where not given.

    Raises:
        UserError: a missing folder, no images, an empty class, or a split whose classes differ.
    """
    check_root(root)
    classes = classes or _class_folders(root, "train")
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has one class only, {classes[0]!r}: a classifier needs two or more")
    return DatasetIndex(root, classes, {split: _read_split(root, split, classes) for split in splits})


def list_classes(folder: Path) -> dict[str, list[str]]:
    """{class: image files relative to its folder} of a split's folder, both in alphabetical order."""
    return {name: list_images(folder / name) for name in _folders(folder)}


def check_root(root: Path) -> None:
    """Raise UserError where there is no folder `root`."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder; set data.root=FOLDER, one that holds train/ valid/ test/")


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(root: Path, split: str) -> list[str]:
    folder = root / SPLIT_FOLDERS[split]
    if not folder.is_dir():
        remedy = "; test=false trains without a test split" if split == "test" else ""
        raise UserError(f"{folder} is missing: data.root needs the folders train/ valid/ test/{remedy}")
    names = _folders(folder)
    if not names:
        raise UserError(f"{folder} holds no class folders: put the images into one sub-folder a class")
    return names


def _read_split(root: Path, split: str, classes: list[str]) -> Split:
    folder = root / SPLIT_FOLDERS[split]
    names = _class_folders(root, split)
    for wrong, problem in ((set(classes) - set(names), "lacks"), (set(names) - set(classes), "has the unknown")):
        if wrong:
            listed = ", ".join(repr(name) for name in sorted(wrong)[:5])
            raise UserError(f"{folder} {problem} class {listed}: every split needs the same class folders as train/")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = list_images(folder / name)
        if not files:
            raise UserError(f"class {name!r} has no images in {folder / name}: add some or remove the folder")
        paths += [os.path.join(SPLIT_FOLDERS[split], name, file) for file in files]
        labels += [label] * len(files)
    return Split(paths, labels)
