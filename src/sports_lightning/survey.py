"""All that a look through a data folder tells: every file of every split, and which pictures are the same.

Unlike `data.index` it refuses nothing: what is wrong with the data is what it is for. No torch in here.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.index import SPLIT_FOLDERS, list_classes
from sports_lightning.data.ledger import examine
from sports_lightning.data.store import cache_dir_of, fingerprint, library_versions, stored
from sports_lightning.duplicates import Pair, find_pairs
from sports_lightning.errors import UserError
from sports_lightning.looks import Looks, look_at


@dataclass(frozen=True)
class Survey:
    """The picture files of a data folder, in the order train, val, test; lists run parallel.

    Attributes:
        root: the folder.
        splits, labels: "train", "val" or "test", and the class folder's name, of each file.
        paths: relative to the root.
        digests: of the content.
        problems: why a file can't be read ("": it can).
        looks: what the pictures look like.
        pairs: the same picture twice, by position, first < second.
    """

    root: Path
    splits: list[str]
    labels: list[str]
    paths: list[str]
    digests: list[str]
    problems: list[str]
    looks: Looks
    pairs: list[Pair]

    def leaking(self) -> list[Pair]:
        """The pairs whose second picture is evaluated with what the first has taught: an earlier split has it."""
        return [pair for pair in self.pairs if self.splits[pair.first] != self.splits[pair.second]]

    def leaks(self, split: str) -> set[str]:
        """Paths of the pictures of `split` that an earlier split has too."""
        return {self.paths[pair.second] for pair in self.leaking() if self.splits[pair.second] == split}


def survey(root: Path, cache_dir: Path) -> Survey:
    """Look through the splits that are there below `root`; what was found of these very pictures before is taken up.

    Raises:
        UserError: no split with a picture.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder; set data.root=FOLDER, one that holds train/ valid/ test/")
    splits: list[str] = []
    labels: list[str] = []
    paths: list[str] = []
    for split, split_folder in SPLIT_FOLDERS.items():
        if (root / split_folder).is_dir():
            for name, files in list_classes(root / split_folder).items():
                splits += [split] * len(files)
                labels += [name] * len(files)
                paths += [os.path.join(split_folder, name, file) for file in files]
    if not paths:
        raise UserError(f"data.root={root} has no pictures in train/ valid/ test/, one sub-folder a class")
    entries = examine(root, paths, cache_dir)
    digests = ["" if entry.problem else entry.digest for entry in entries]

    def build(folder: Path) -> None:
        looks = look_at(root, paths)
        looks.write(folder)
        pairs = [list(pair) for pair in find_pairs(looks.small, digests)]
        (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")

    # The splits and their order decide what comes first in a pair; names of files do not matter.
    folder = stored(cache_dir, "survey", fingerprint(["survey", library_versions(), splits, labels, digests]), build)
    pairs = [Pair(*pair) for pair in json.loads((folder / "pairs.json").read_text(encoding="utf-8"))]
    return Survey(
        root, splits, labels, paths, [entry.digest for entry in entries], [entry.problem for entry in entries],
        Looks.read(folder), pairs,
    )  # fmt: skip


def find_leaks(data: DictConfig, split: str) -> set[str] | None:
    """Paths of the pictures of `split` that an earlier split of `conf/data/*.yaml` has too.

    None where nobody looked: `data.audit=false`, or no earlier split is there to look in.
    """
    root = Path(str(data.root)).expanduser()
    earlier = list(SPLIT_FOLDERS)[: list(SPLIT_FOLDERS).index(split)]
    if not data.audit or not any((root / SPLIT_FOLDERS[name]).is_dir() for name in earlier):
        return None
    return survey(root, cache_dir_of(data)).leaks(split)
