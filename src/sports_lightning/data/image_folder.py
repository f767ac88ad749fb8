"""Lists the images of a folder, whose sub-folders are the classes, with or without splits."""

import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sports_lightning.data.class_names import first_five, listed, normalize
from sports_lightning.data.folder_layout import SPLIT_FOLDERS, SPLITS, UNSPLIT, recognize
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.data.leftovers import BESIDE, LEFTOVER, LINK, ignored_kind, is_leftover
from sports_lightning.errors import UserError
from sports_lightning.storage.packed_strings import PackedStrings

log = logging.getLogger(__name__)


def list_image_folder(root: Path, leaf_classes: bool = False) -> ImageTable:
    """List the images below `root`. One line of the log says which layout was recognized.

    Args:
        root: folder that holds class folders, or the folders of splits with class folders (see `recognize`).
        leaf_classes: the folders that directly contain images are the classes, however deep they are; otherwise the
            first level is, and the folders within a class are taken together.

    Raises:
        UserError: no such folder, an ambiguous layout, a folder that can't be listed, or links that form a loop.
    """
    check_root(root)
    layout = recognize(root)
    ignored: Counter[str] = Counter()
    names: dict[str, str] = {}  # {normalized: class name}
    labels_of: dict[str, int] = {}
    classes: dict[str, list[str]] = {}
    paths: list[str] = []
    labels: list[int] = []
    splits: list[int] = []
    for split, folder in layout.folders.items():
        classes[split] = []
        for folder_name, files in list_classes(root / folder, ignored, leaf_classes).items():
            name = names.setdefault(normalize(folder_name), folder_name)  # the same name in every split
            classes[split].append(name)
            paths += [os.path.normpath(os.path.join(folder, file)) for file in files]
            labels += [labels_of.setdefault(name, len(labels_of))] * len(files)
            splits += [UNASSIGNED if split == UNSPLIT else SPLITS.index(split)] * len(files)
    if labels_of:
        log.info("%s", layout.describe(root))
    usual = {split: str(root / layout.folders.get(split, name)) for split, name in SPLIT_FOLDERS.items()}
    return ImageTable(
        root=root,
        names=list(labels_of),
        paths=PackedStrings(paths),
        labels=np.array(labels, dtype=np.int64),
        splits=np.array(splits, dtype=np.int8),
        groups=None,
        classes=classes,
        places=usual | {split: str(root / folder) for split, folder in layout.folders.items()},
        needs="data.root needs the folders train/ valid/ test/, or one folder per class",
        ignored=ignored,
    )


def list_images(
    folder: Path,
    ignored: Counter[str] | None = None,
    refuse_loops: bool = False,
    is_wanted: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Image files below `folder`, as sorted paths relative to it.

    A file is an image if its extension or, for any other extension, its first bytes are those of an image format.

    Args:
        folder: searched recursively; hidden entries and known leftovers of operating systems are skipped. Links to
            folders are followed; a folder that is reached a second time is skipped.
        ignored: receives the number of other entries by kind (see `ignored_kind`), and of folders linked twice.
        is_wanted: function of the name of any other file; files for which it is true are listed, too.
        refuse_loops: whether a link to a folder that contains it is an error; it is skipped otherwise.

    Raises:
        UserError: a folder can't be listed, or there is a loop.
    """
    ignored = Counter() if ignored is None else ignored
    found = []
    root = os.path.realpath(folder)
    linked = {root}
    for directory, subfolders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        ignored[LEFTOVER] += sum(map(is_leftover, subfolders))
        named = [name for name in subfolders if not is_leftover(name)]
        subfolders[:] = [name for name in named if _is_new(os.path.join(directory, name), root, linked, refuse_loops)]
        ignored[LINK] += len(named) - len(subfolders)
        relative = os.path.relpath(directory, folder)
        for name in files:
            kind = ignored_kind(os.path.join(directory, name))
            if kind and not (kind != LEFTOVER and is_wanted(name)):
                ignored[kind] += 1
            else:
                found.append(os.path.normpath(os.path.join(relative, name)))
    return sorted(found)


def _is_new(path: str, root: str, linked: set[str], refuse_loops: bool) -> bool:
    """Whether a sub-folder is to be listed: it is no link, or the first one to a folder that is not listed itself."""
    if not os.path.islink(path):
        return True
    target = os.path.realpath(path)
    is_loop = f"{os.path.realpath(os.path.dirname(path))}{os.sep}".startswith(f"{target}{os.sep}")
    if is_loop and refuse_loops:
        raise UserError(f"{path} links to {target}, which contains it: remove the link")
    parts = os.path.relpath(target, root).split(os.sep)
    is_listed = parts[0] != os.pardir and not any(map(is_leftover, parts))
    is_new = not is_loop and not is_listed and target not in linked
    linked.add(target)
    return is_new


def describe_nested(table: ImageTable) -> str:
    """Which folders below class folders are taken together, such as "'animals' ('cat', 'dog')"; "" if none are."""
    nested: dict[str, dict[str, None]] = {}
    for path, label in zip(table.paths, table.labels.tolist(), strict=True):
        name = table.names[label]
        *folders, _ = path.split(os.sep)
        if folders and folders[-1] != name and normalize(folders[-1]) != normalize(name):
            known = [normalize(folder) for folder in folders]
            if normalize(name) in known:
                nested.setdefault(name, {})[folders[known.index(normalize(name)) + 1]] = None
    return first_five([f"{label!r} ({listed(list(names))})" for label, names in sorted(nested.items())])


def list_classes(folder: Path, ignored: Counter[str] | None = None, leaf_classes: bool = False) -> dict[str, list[str]]:
    """{class: image files relative to `folder`} of a split's folder, both in alphabetical order.

    Args:
        folder: of the split.
        ignored: see `list_images`; it also receives the number of images beside the class folders.
        leaf_classes: see `list_image_folder`.
    """
    if leaf_classes:
        return _list_leaves(folder, ignored)
    if ignored is not None:
        _count_beside_classes(folder, ignored)
    return {
        name: [
            os.path.join(subfolder, file)
            for subfolder in subfolders
            for file in list_images(folder / subfolder, ignored, refuse_loops=True)
        ]
        for name, subfolders in class_folders(folder).items()
    }


def _list_leaves(folder: Path, ignored: Counter[str] | None) -> dict[str, list[str]]:
    """{class: image files} where the folders that directly contain images are the classes."""
    leaves: dict[str, list[str]] = {}
    for path in list_images(folder, ignored, refuse_loops=True):
        leaves.setdefault(os.path.dirname(path), []).append(path)
    found: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for leaf in sorted(leaves, key=lambda leaf: (normalize(os.path.basename(leaf)), leaf)):
        if not leaf:
            raise UserError(f"{folder} directly contains images such as {leaves[leaf][0]}: put them into class folders")
        name = normalize(os.path.basename(leaf))
        if (other := first.setdefault(name, leaf)) != leaf:
            raise UserError(f"{folder} has two folders of the class {name!r}, {other}/ and {leaf}/: rename one of them")
        if (parent := os.path.dirname(leaf)) in leaves:
            raise UserError(f"{folder / parent} contains images and also {leaf}/ with images: move the images apart")
        found[name] = leaves[leaf]
    return found


def class_folders(folder: Path) -> dict[str, list[str]]:
    """{class: its folders} of a split's folder, in alphabetical order.

    Classes have their names in the form NFC, as in manifests, so that their order does not depend on the file system.
    """
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_leftover(entry.name)]
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (normalize(name), name)):
        found.setdefault(normalize(name), []).append(name)
    return found


def check_root(root: Path) -> None:
    """Raise UserError if there is no folder `root`."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder; set data.root=FOLDER, one that holds the images")


def check_outside_classes(folder: Path, root: Path, key: str) -> None:
    """Check that what is written to `folder` can't become a class of the dataset.

    Args:
        folder: to be written to.
        root: of the dataset.
        key: the setting that names `folder`.

    Raises:
        UserError: it is inside a folder whose folders are the classes.
    """
    if not root.is_dir():
        return
    for inside in recognize(root).folders.values():
        if class_folders(root / inside) and folder.resolve().is_relative_to((root / inside).resolve()):
            place = os.path.normpath(root / inside)
            raise UserError(f"{key}={folder} is inside {place}, whose folders are the classes: choose another {key}")


def _count_beside_classes(folder: Path, ignored: Counter[str]) -> None:
    for entry in os.scandir(folder):
        if is_leftover(entry.name):
            ignored[LEFTOVER] += 1
        elif not entry.is_dir():
            ignored[ignored_kind(entry.path) or BESIDE] += 1


def _refuse(error: OSError) -> None:
    """Without this, `os.walk` would leave out a folder that it can't list."""
    raise UserError(f"can't list {error.filename}: {error.strerror}") from error
