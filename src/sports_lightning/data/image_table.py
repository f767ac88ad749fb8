"""The images of a dataset as a table, before any of them is read: what a folder or a manifest lists."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sports_lightning.data.class_names import first_five, listed, misspelled_classes, normalize
from sports_lightning.data.folder_layout import SPLITS, UNSPLIT
from sports_lightning.errors import UserError
from sports_lightning.storage.packed_strings import PackedStrings

UNASSIGNED = -1  # in `ImageTable.splits`
_UNLABELED = ", or train with test=false and label them with predict input={}"


@dataclass(frozen=True)
class ImageTable:
    """n images, in the order of split, class and path.

    Attributes:
        root: the folder that the paths are relative to.
        names: the names of the classes.
        paths: of the images.
        labels: (n,) int64, positions in `names`.
        splits: (n,) int8, positions in `SPLITS`, or `UNASSIGNED`.
        groups: (n,) int64, images with the same number belong into the same split; None if nothing is known of groups.
        classes: {split: its classes, those without images too}; the split `UNSPLIT` is that of unassigned images.
        places: {split: where its images come from, for messages}, also of missing splits.
        needs: what a place needs to have, for messages.
        ignored: number of files that are not read as images, by kind.
        origin: settings of `data` by which another machine gets the images of a Hugging Face dataset; else empty.
    """

    root: Path
    names: list[str]
    paths: PackedStrings
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray | None
    classes: dict[str, list[str]]
    places: dict[str, str]
    needs: str
    ignored: Counter[str] = field(default_factory=Counter)
    origin: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def _training_split(self) -> str:
        """The split that the classes are taken from."""
        return UNSPLIT if UNSPLIT in self.classes else "train"

    def rows_of(self, splits: Iterable[str]) -> np.ndarray:
        """Rows of these splits, in order; `UNSPLIT` is one of them."""
        wanted = [UNASSIGNED if split == UNSPLIT else SPLITS.index(split) for split in splits]
        return np.flatnonzero(np.isin(self.splits, wanted))

    def take(self, rows: Sequence[int] | np.ndarray, splits: np.ndarray | None = None) -> "ImageTable":
        """The table of these rows, with other splits if they are given."""
        chosen = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            paths=PackedStrings(self.paths[i] for i in chosen.tolist()),
            labels=self.labels[chosen],
            splits=self.splits[chosen] if splits is None else splits,
            groups=None if self.groups is None else self.groups[chosen],
        )

    def check_classes(self, splits: Iterable[str], expected: list[str] | None = None) -> list[str]:
        """Check that the splits can be used for training or evaluation, and return the classes.

        Args:
            splits: names of splits; `UNSPLIT` stands for all images that are not in one yet.
            expected: the classes; by default those of "train", or of the unassigned images.

        Raises:
            UserError: a missing split, a training class without images, an empty split, or an unknown class.
        """
        if expected is None:
            first = self._training_split
            self._require(first)
            expected = self.classes[first]
            if first == UNSPLIT and "train" in self.classes:  # a manifest whose column split is filled in partly
                expected = sorted({*expected, *self.classes["train"]})
            self._check_number(expected, first)
        for split in splits:
            self._require(split)
            self._check_split(split, expected)
        return expected

    def _require(self, split: str) -> None:
        place = self.places[split]
        if split not in self.classes:
            remedy = ""
            if split == "test":
                remedy = "; test=false trains without a test split, data.split.test=0.1 takes one from train"
            raise UserError(f"{place} is missing: {self.needs}{remedy}")
        if not self.classes[split]:
            remedy = "put the images into one sub-folder per class"
            if split == "test" and any(Path(place).iterdir()):
                remedy += _UNLABELED.format(place)
            raise UserError(f"{place} holds no class folders: {remedy}")

    def _check_number(self, classes: list[str], split: str) -> None:
        if len(classes) < 2:
            place = Path(self.places[split])
            inside = (place / classes[0]).is_dir() and any(entry.is_dir() for entry in (place / classes[0]).iterdir())
            remedy = "; data.classes=leaf takes the folders that directly contain images as classes" if inside else ""
            raise UserError(f"{place} has one class only, {classes[0]!r}: a classifier needs two or more{remedy}")

    def _check_split(self, split: str, classes: list[str]) -> None:
        place = self.places[split]
        known = {normalize(name) for name in classes}
        if unknown := [name for name in self.classes[split] if normalize(name) not in known]:
            remedy = _UNLABELED.format(place) if split == "test" and len(unknown) == len(self.classes[split]) else ""
            if meant := misspelled_classes(unknown, classes):
                remedy = f"; rename {first_five([f'{name!r} to {known!r}' for name, known in meant.items()])}"
            raise UserError(f"{place} has the unknown class {listed(unknown)}: known are {listed(classes)}{remedy}")
        if split == self._training_split:
            self._check_training_classes(split, classes)
        if not len(self.rows_of([split])):
            raise UserError(f"{place} has no images of the classes {listed(classes)}")

    def _check_training_classes(self, split: str, classes: list[str]) -> None:
        place = self.places[split]
        rows = self.rows_of([split, "train"])
        with_images = {normalize(self.names[label]) for label in np.unique(self.labels[rows])}
        for name in classes:
            if normalize(name) not in with_images:
                raise UserError(f"class {name!r} has no images in {Path(place) / name}: add some or remove the folder")
