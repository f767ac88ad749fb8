"""Index a data set of a million files in a thousand classes: how long, and how much memory?

    python benchmarks/million_files.py PICTURE [--files 1000000] [--classes 1000]

The tree is made of hard links to copies of one picture, in a temporary folder. Each figure is of a process of its own.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_MOST_LINKS = 60_000  # ext4 allows 65,000 to a file


def plant(root: Path, picture: Path, files: int, classes: int) -> None:
    """Make the tree: 98 % train, 1 % valid, 1 % test, of every class."""
    sources: list[Path] = []
    links = _MOST_LINKS
    each = files // classes
    for split, count in (("train", each - 2 * (each // 100)), ("valid", each // 100), ("test", each // 100)):
        for label in range(classes):
            folder = root / split / f"class {label:04d}"
            folder.mkdir(parents=True)
            for i in range(count):
                if links == _MOST_LINKS:
                    sources.append(root / f"source{len(sources)}")
                    shutil.copy(picture, sources[-1])
                    links = 0
                os.link(sources[-1], folder / f"{i:06d}.jpg")
                links += 1


def measured(root: str, what: str) -> None:
    """In a process of its own: do it and print the seconds and the memory that it took."""
    from sports_lightning.data.index import read_index

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    index = read_index(Path(root), ["train", "val", "test"])
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    files = sum(map(len, index.splits.values()))
    print(f"{what}: {files:,} files listed in {seconds:.1f} s, {peak:.0f} MB at most ({before:.0f} MB before)")


def main() -> None:
    """Make the tree and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(*arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        plant(Path(folder), arguments.picture, arguments.files, arguments.classes)
        print(f"made in {time.perf_counter() - started:.0f} s")
        for what in ("first", "again"):
            subprocess.run([sys.executable, __file__, str(arguments.picture), "--measure", folder, what], check=True)


if __name__ == "__main__":
    main()
