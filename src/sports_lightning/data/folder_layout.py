"""How a folder holds a dataset: which of its folders are the splits, or that there are none."""

import os
from dataclasses import dataclass
from pathlib import Path

from sports_lightning.data.leftovers import is_leftover
from sports_lightning.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {"train": "train", "val": "valid", "test": "test"}  # the usual names
_NAMES = {  # all names that are recognized, in lower case
    "train": ("train", "training", "trainset", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "dev", "valset", "val_set", "validation_set"),
    "test": ("test", "testing", "testset", "test_set"),
}
UNSPLIT = ""  # the "split" of images that are not in one yet


def split_named(name: str) -> str | None:
    """The split ("train", "val" or "test") that a folder or value of this name stands for."""
    return next((split for split, names in _NAMES.items() if name.strip().lower() in names), None)


@dataclass(frozen=True)
class Layout:
    """What was recognized in a folder.

    Attributes:
        folders: {split: its folder relative to the root} in the order train, val, test; {UNSPLIT: folder of the class
            folders} if there are no splits.
        unused: other folders beside those of the splits.
    """

    folders: dict[str, str]
    unused: list[str]

    def describe(self, root: Path) -> str:
        """The layout on one line."""
        if UNSPLIT in self.folders:
            return f"{os.path.normpath(root / self.folders[UNSPLIT])} has class folders and no splits"
        named = ", ".join(f"{folder}/ is {split}" for split, folder in self.folders.items())
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"{root}: {named}{unused}"


def recognize(root: Path) -> Layout:
    """Recognize the splits below `root`: folders named train, val, valid, validation, dev, test, … in any case.

    If `root` holds a single folder, as an unpacked archive does, that folder may hold the splits or class folders.

    Raises:
        UserError: two folders could be the same split, or a folder could be both a split and a class.
    """
    layout = _splits_of(root, "")
    if layout:
        return layout
    folders = _folders(root)
    inside = {name: found for name in folders if (found := _splits_of(root, name))}
    if len(inside) > 1:
        listed = " and ".join(sorted(inside)[:2])
        raise UserError(f"data.root={root} holds several datasets with splits, such as {listed}: set data.root to one")
    if len(folders) > 1 and (nested := [name for name, found in inside.items() if len(found.folders) > 1]):
        others = ", ".join(f"{name}/" for name in folders if name not in nested)
        raise UserError(
            f"{root} has the folder {nested[0]}/ with splits, and {others}, which could be classes: set "
            f"data.root={root / nested[0]}, or move the others"
        )
    if len(folders) == 1 and not _files(root / folders[0]):
        return next(iter(inside.values()), Layout({UNSPLIT: folders[0]}, []))
    return Layout({UNSPLIT: "."}, [])


def _splits_of(root: Path, folder: str) -> Layout | None:
    """The layout of a folder that has folders named like splits; None if it has none, or if they are classes."""
    names = _folders(root / folder)
    found = {split: [name for name in names if split_named(name) == split] for split in SPLITS}
    others = [name for name in names if split_named(name) is None]
    if not any(found.values()):
        return None
    for split, same in found.items():
        if len(same) > 1:
            raise UserError(
                f"{root / folder} has two folders for the split {split}, {same[0]}/ and {same[1]}/: keep one of them"
            )
    given = {split: same[0] for split, same in found.items() if same}
    holds_classes = [name for name in others if _files(root / folder / name)]
    without_classes = [name for name in given.values() if not _folders(root / folder / name)]
    if holds_classes and len(without_classes) == len(given) and any(_files(root / folder / n) for n in without_classes):
        if list(given) == ["train"] and len(holds_classes) > 1:  # a class beside others, such as "car" and "ship"
            return None
        _refuse_ambiguity(root / folder, without_classes[0], holds_classes[0])
    if "train" not in given and holds_classes:
        _refuse_ambiguity(root / folder, next(iter(given.values())), holds_classes[0])
    relative = {split: os.path.normpath(os.path.join(folder, name)) for split, name in given.items()}
    return Layout(relative, others)


def _refuse_ambiguity(folder: Path, split: str, other: str) -> None:
    raise UserError(
        f"{folder} has the folders {split}/, which could be a split, and {other}/, which could be a class: move one of "
        "them, or list the images in a manifest (data.manifest=FILE.csv)"
    )


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_leftover(entry.name))


def _files(folder: Path) -> bool:
    """Whether a folder directly contains files, apart from leftovers."""
    return any(entry.is_file() and not is_leftover(entry.name) for entry in os.scandir(folder))
