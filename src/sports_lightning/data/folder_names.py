"""What folders of a dataset are meant to be whose names differ a little from those that are read."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

_OTHER_NAMES = {  # of the splits' folders in other programs, in lower case
    "train": ("train", "training", "trainset", "train_set", "training_set"),
    "valid": ("valid", "val", "validation", "dev", "valset", "val_set", "validation_set"),
    "test": ("test", "testing", "testset", "test_set"),
}


def misnamed_splits(root: Path) -> dict[str, str]:
    """{its folder: the expected name} of the splits that are below `root` under other names only."""
    found: dict[str, str] = {}
    for name in sorted(entry.name for entry in os.scandir(root) if entry.is_dir()):
        for split, names in _OTHER_NAMES.items():
            if name.strip().lower() in names and split not in found.values() and not (root / split).is_dir():
                found[name] = split
    return found


def misspelled_classes(names: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """{name: class} of the names that differ from a class only in case, spaces, hyphens or underscores."""
    by_spelling = {_spelling(name): name for name in classes}
    return {name: by_spelling[_spelling(name)] for name in names if _spelling(name) in by_spelling}


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name)).casefold() or name
