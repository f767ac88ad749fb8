"""All that a look through a data folder tells: every file of every split, and which images are the same.

Unlike `data.index` it refuses nothing: what is wrong with the data is what it is for. No torch in here.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sports_lightning.audit.duplicates import VERSION, DuplicatePair, find_duplicates, first_of_each
from sports_lightning.audit.thumbnails import Thumbnails, read_thumbnails
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.image_folder import SPLIT_FOLDERS, check_root, list_classes, split_fingerprint
from sports_lightning.errors import UserError
from sports_lightning.storage.disk_cache import cached_folder, fingerprint, library_versions


@dataclass(frozen=True)
class DatasetScan:
    """The image files of a data folder, in the order train, val, test; lists run parallel.

    Attributes:
        root: the folder.
        splits, labels: "train", "val" or "test", and the class folder's name, of each file.
        paths: relative to the root.
        digests: of the content.
        problems: why a file can't be read ("": it can).
        thumbnails: small grey versions, sizes and modes.
        pairs: the same image twice (see duplicates).
        folders: the class folders of each split that is there, empty ones too.
    """

    root: Path
    splits: list[str]
    labels: list[str]
    paths: list[str]
    digests: list[str]
    problems: list[str]
    thumbnails: Thumbnails
    pairs: list[DuplicatePair]
    folders: dict[str, list[str]]

    def fingerprint(self, split: str) -> str:
        """As `Index.fingerprint`."""
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
        """Paths of the images of `split` that an earlier split has too."""
        return {self.paths[pair.second] for pair in self.leaking if self.splits[pair.second] == split}


def scan_dataset(root: Path, cache_dir: Path) -> DatasetScan:
    """Look through the splits that are there below `root`; what was found of these very images before is taken up.

    Raises:
        UserError: no split with an image.
    """
    check_root(root)
    splits: list[str] = []
    labels: list[str] = []
    paths: list[str] = []
    folders: dict[str, list[str]] = {}
    for split, split_folder in SPLIT_FOLDERS.items():
        if (root / split_folder).is_dir():
            classes = list_classes(root / split_folder)
            folders[split] = list(classes)
            for name, files in classes.items():
                splits += [split] * len(files)
                labels += [name] * len(files)
                paths += [os.path.join(split_folder, name, file) for file in files]
    if not paths:
        raise UserError(f"data.root={root} has no images in train/ valid/ test/, one sub-folder a class")
    entries = check_files(root, paths, cache_dir)
    digests = ["" if entry.problem else entry.digest for entry in entries]

    def build(folder: Path) -> None:
        looks = read_thumbnails(root, paths)
        looks.write(folder)
        pairs = [list(pair) for pair in find_duplicates(looks.small, digests)]
        (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")

    # The splits and their order decide what comes first in a pair; names of files do not matter.
    key = fingerprint(["survey", VERSION, library_versions(), splits, labels, digests])
    try:
        looks, pairs = _read(cached_folder(cache_dir, "survey", key, build))
    except UserError:  # nothing can be kept there
        with tempfile.TemporaryDirectory() as temporary:
            build(Path(temporary))
            looks, pairs = _read(Path(temporary))
    entry_digests, problems = [entry.digest for entry in entries], [entry.problem for entry in entries]
    return DatasetScan(root, splits, labels, paths, entry_digests, problems, looks, pairs, folders)


def _read(folder: Path) -> tuple[Thumbnails, list[DuplicatePair]]:
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    return Thumbnails.read(folder), [DuplicatePair(*pair) for pair in pairs]


def find_leaks(seen: DatasetScan | None, split: str, trained_on: str) -> set[str] | None:
    """Paths of the images of `split` that an earlier split has too.

    None where that cannot be told: nobody looked (`data.audit=false`), or the training images that were looked
    at are not those that the classifier has learned from.

    Args:
        seen: the data set, if it was looked at.
        split: "train", "val" or "test".
        trained_on: fingerprint of the classifier's training images (see classifier.Spec).
    """
    if seen is None or seen.fingerprint("train") != trained_on:
        return None
    return seen.leaks(split)
