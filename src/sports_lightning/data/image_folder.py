"""The index of a dataset: lists and checks the images below `root/{train,valid,test}/<class>/`."""

import hashlib
import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sports_lightning.data.folder_names import misnamed_splits, misspelled_classes
from sports_lightning.data.formats import is_image_file, is_image_name
from sports_lightning.errors import UserError
from sports_lightning.storage.packed_strings import PackedStrings

log = logging.getLogger(__name__)

SPLIT_FOLDERS = {"train": "train", "val": "valid", "test": "test"}
_UNLABELED = ", or train with test=false and label them with predict input={}"
LEFTOVER, _LINK, _BESIDE = "leftover", "linked folder", "image outside the class folders"  # kinds of ignored entries
# Files and folders of operating systems, NAS devices and notebooks. Names that start with "." are skipped anyway.
_LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "found.000"),
    *("__macosx", "icon\r", "network trash folder", "temporary items"),
    *("lost+found", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot"),
    "__pycache__",
}


class Split:
    """The images of one split in a compact form: a million images take 100 MB.

    Attributes:
        paths: relative to the data root.
        labels: (n,) int64, the class of each image.
        digests: of each image's content, once the images have been read (see `file_hashes`).
    """

    def __init__(self, paths: Iterable[str], labels: ArrayLike, digests: Iterable[str] = ()) -> None:
        self.paths, self.digests = PackedStrings(paths), PackedStrings(digests)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def spread(self, count: int) -> "Split":
        """`count` of the images, in order and at equal distances, so that all classes have their share."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return Split([self.paths[i] for i in chosen], self.labels[chosen], [self.digests[i] for i in chosen])


@dataclass(frozen=True)
class DatasetIndex:
    """A dataset on disk.

    Attributes:
        root: the folder.
        classes: class names in alphabetical order; their position is the label.
        splits: by name.
        value_range: the values of 16- and 32-bit pixels that are black and white (see `choose_value_range`), once the
            images have been read.
    """

    root: Path
    classes: list[str]
    splits: dict[str, Split]
    value_range: tuple[float, float] | None = None

    def fingerprint(self, split: str) -> str:
        """Fingerprint of the content and classes of a split's images, in order; file names do not matter."""
        labels = (self.classes[label] for label in self.splits[split].labels)
        return split_fingerprint(labels, self.splits[split].digests)

    def class_counts(self, split: str) -> list[int]:
        """Images per class, in the order of `classes`."""
        counts: list[int] = np.bincount(self.splits[split].labels, minlength=len(self.classes)).tolist()
        return counts

    def provenance(self) -> dict[str, Any]:
        """The root, and the number of images and the fingerprint of each split."""
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
    """`disk_cache.fingerprint` of the (class, digest) pairs of images in this order, without a list of them all."""
    content = hashlib.blake2b(digest_size=16)
    before = "["
    for pair in zip(labels, digests, strict=True):
        content.update((before + json.dumps(pair)).encode())
        before = ", "
    content.update(b"]" if before == ", " else b"[]")
    return content.hexdigest()


def list_images(folder: Path, ignored: Counter[str] | None = None) -> list[str]:
    """Image files below `folder`, as sorted paths relative to it.

    A file is an image if its extension or, for any other extension, its first bytes are those of an image format.

    Args:
        folder: searched recursively; hidden entries, known leftovers of operating systems and links to folders, which
            could form loops, are skipped.
        ignored: receives the number of other entries by kind (see `_ignored_kind`), and of linked folders.

    Raises:
        UserError: a folder can't be listed.
    """
    ignored = Counter() if ignored is None else ignored
    found = []
    for directory, subfolders, files in os.walk(folder, onerror=_refuse):
        ignored[LEFTOVER] += sum(map(is_leftover, subfolders))
        subfolders[:] = [name for name in subfolders if not is_leftover(name)]
        ignored[_LINK] += sum(os.path.islink(os.path.join(directory, name)) for name in subfolders)
        relative = os.path.relpath(directory, folder)
        for name in files:
            if kind := _ignored_kind(os.path.join(directory, name)):
                ignored[kind] += 1
            else:
                found.append(os.path.normpath(os.path.join(relative, name)))
    return sorted(found)


def describe_ignored(ignored: Counter[str]) -> str:
    """The counts of `list_images` as text, such as "3 .txt, 2 leftovers"; "" if there are none."""
    plurals = {LEFTOVER: "leftovers", _LINK: "linked folders", _BESIDE: "images outside the class folders"}
    counts = [(count, kind) for kind, count in sorted(ignored.items()) if count]
    return ", ".join(f"{count} {kind if count == 1 else plurals.get(kind, kind)}" for count, kind in counts)


def describe_nested(paths: Iterable[str]) -> str:
    """Which folders below class folders are taken together, such as "'animals' ('cat', 'dog')"; "" if there are none.

    Args:
        paths: of images, relative to the data root.
    """
    nested: dict[str, dict[str, None]] = {}
    for path in paths:
        _, label, *subfolders, _ = path.split(os.sep)
        if subfolders:
            nested.setdefault(label, {})[subfolders[0]] = None
    return first_five([f"{label!r} ({_listed(list(names))})" for label, names in sorted(nested.items())])


def read_image_folder(root: Path, splits: Iterable[str], classes: list[str] | None = None) -> DatasetIndex:
    """List the dataset under `root`. Files that are not read are counted in one line of the log.

    Args:
        root: folder that holds `train`, `valid` and `test`, each with one folder per class.
        splits: which of "train", "val", "test" to list.
        classes: the expected classes; by default those of `train`.

    Raises:
        UserError: a missing folder, a training class without images, an empty split, or an unknown class.
    """
    check_root(root)
    classes = classes or list(class_folders(_split_folder(root, "train")))
    if len(classes) < 2:
        inside = class_folders(root / "train" / classes[0])
        remedy = f"; to use the folders in it as classes ({_listed(list(inside))}), move them up" if inside else ""
        raise UserError(f"{root / 'train'} has one class only, {classes[0]!r}: a classifier needs two or more{remedy}")
    ignored: Counter[str] = Counter()
    index = DatasetIndex(root, classes, {split: _read_split(root, split, classes, ignored) for split in splits})
    if described := describe_ignored(ignored):
        log.info("skipped: %s", described)
    if nested := describe_nested(path for split in index.splits.values() for path in split.paths):
        log.info("folders within class folders are taken together as one class: %s", nested)
    return index


def list_classes(folder: Path, ignored: Counter[str] | None = None) -> dict[str, list[str]]:
    """{class: image files relative to `folder`} of a split's folder, both in alphabetical order.

    Args:
        folder: of the split.
        ignored: see `list_images`; it also receives the number of images beside the class folders.
    """
    if ignored is not None:
        _count_beside_classes(folder, ignored)
    return {
        name: [
            os.path.join(subfolder, file)
            for subfolder in subfolders
            for file in list_images(folder / subfolder, ignored)
        ]
        for name, subfolders in class_folders(folder).items()
    }


def class_folders(folder: Path) -> dict[str, list[str]]:
    """{class: its folders} of a split's folder, in alphabetical order.

    Names that differ only in their Unicode normalization (NFC, NFD) are one class, under the first of the names.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_leftover(entry.name))
    found: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for name in names:
        found.setdefault(first.setdefault(normalize(name), name), []).append(name)
    return found


def normalize(name: str) -> str:
    """A class name in Unicode normal form C, by which class names are compared."""
    return unicodedata.normalize("NFC", name)


def check_root(root: Path) -> None:
    """Raise UserError if there is no folder `root`."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder; set data.root=FOLDER, one that holds train/ valid/ test/")


def check_outside_splits(folder: Path, root: Path, key: str) -> None:
    """Check that what is written to `folder` can't become a class of the dataset.

    Args:
        folder: to be written to.
        root: of the dataset.
        key: the setting that names `folder`.

    Raises:
        UserError: it is inside the folder of a split, by whatever name.
    """
    for split in SPLIT_FOLDERS.values():
        if folder.resolve().is_relative_to((root / split).resolve()):
            raise UserError(
                f"{key}={folder} is inside {root / split}, whose folders are the classes: choose another {key}"
            )


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a known leftover of an operating system or program."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def _ignored_kind(path: str) -> str:
    """ "" for an image; otherwise "leftover", the extension or "no extension"."""
    name = os.path.basename(path)
    if is_leftover(name):
        return LEFTOVER
    if is_image_name(name) or is_image_file(path):
        return ""
    return os.path.splitext(name)[1].lower() or "no extension"


def _count_beside_classes(folder: Path, ignored: Counter[str]) -> None:
    for entry in os.scandir(folder):
        if is_leftover(entry.name):
            ignored[LEFTOVER] += 1
        elif not entry.is_dir():
            ignored[_ignored_kind(entry.path) or _BESIDE] += 1


def _refuse(error: OSError) -> None:
    """Without this, `os.walk` would leave out a folder that it can't list."""
    raise UserError(f"can't list {error.filename}: {error.strerror}") from error


def _split_folder(root: Path, split: str) -> Path:
    """The folder of a split, which has class folders."""
    folder = root / SPLIT_FOLDERS[split]
    if not folder.is_dir():
        remedy = "; test=false trains without a test split" if split == "test" else ""
        if found := misnamed_splits(root):
            remedy = f"; rename {', '.join(f'{name} to {expected}' for name, expected in found.items())}{remedy}"
        raise UserError(f"{folder} is missing: data.root needs the folders train/ valid/ test/{remedy}")
    if not class_folders(folder):
        remedy = "put the images into one sub-folder per class"
        if split == "test" and list_images(folder):
            remedy += _UNLABELED.format(folder)
        raise UserError(f"{folder} holds no class folders: {remedy}")
    return folder


def _read_split(root: Path, split: str, classes: list[str], ignored: Counter[str]) -> Split:
    folder = _split_folder(root, split)
    files = {normalize(name): (name, paths) for name, paths in list_classes(folder, ignored).items()}
    known = {normalize(name) for name in classes}
    if unknown := [name for key, (name, _) in files.items() if key not in known]:
        remedy = _UNLABELED.format(folder) if split == "test" and len(unknown) == len(files) else ""
        if meant := misspelled_classes(unknown, classes):
            remedy = f"; rename {first_five([f'{name!r} to {known!r}' for name, known in meant.items()])}"
        raise UserError(f"{folder} has the unknown class {_listed(unknown)}: known are {_listed(classes)}{remedy}")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = files.get(normalize(name), (name, []))[1]
        if not found and split == "train":
            raise UserError(f"class {name!r} has no images in {folder / name}: add some or remove the folder")
        paths += [os.path.join(SPLIT_FOLDERS[split], file) for file in found]
        labels += [label] * len(found)
    if not paths:
        raise UserError(f"{folder} has no images of the classes {_listed(classes)}")
    return Split(paths, labels)


def _listed(names: list[str]) -> str:
    return first_five([repr(name) for name in sorted(names)])


def first_five(texts: list[str], separator: str = ", ") -> str:
    """The first five of the texts, and how many more there are."""
    return separator.join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
