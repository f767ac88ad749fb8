"""Index a dataset of a million files in a thousand classes: how much time and memory does it take?

    python benchmarks/million_files.py IMAGE [--files 1000000] [--classes 1000] [--cold]

The dataset consists of hard links to copies of one image, in a temporary folder. Each value is measured in a new
process. With --cold the disk caches are dropped first, which needs permission to do so.
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

from sports_lightning.data import file_hashes
from sports_lightning.data.image_folder import list_image_folder

_MOST_LINKS = 60_000  # ext4 allows 65,000 links per file


def plant(root: Path, image: Path, files: int, classes: int) -> None:
    """Create the dataset: of each class 98 % train, 1 % valid, 1 % test."""
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
                    shutil.copy(image, sources[-1])
                    links = 0
                os.link(sources[-1], folder / f"{i:06d}.jpg")
                links += 1


def measured(root: Path, cache_dir: Path, what: str) -> None:
    """Index the dataset in this process, and print the seconds and the memory that it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    table = list_image_folder(root)
    table.check_classes(["train", "val", "test"])
    done = f"{len(table):,} files listed"
    if what == "known":
        assert not any(check.problem for check in file_hashes.check_files(root, table.paths, cache_dir))
        done += " and checked"
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {done} in {seconds:.1f} s, {peak:.0f} MB peak ({before:.0f} MB before)", flush=True)


def make_known(root: Path, cache_dir: Path) -> None:
    """Fill the file-hash index as if each file had been read, which would take some milliseconds per file."""
    paths = list_image_folder(root).paths
    stats = {path: file_hashes._state(file_hashes._stat(os.path.join(root, path))) for path in paths}
    check = file_hashes.FileCheck("0" * 32, "", 1)
    file_hashes._store(root, cache_dir, {path: (stat, check) for path, stat in stats.items()})


def main() -> None:
    """Create the dataset and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        root, cache_dir, what = Path(arguments.measure[0]), Path(arguments.measure[1]), arguments.measure[2]
        if what == "make known":
            make_known(root, cache_dir)
        else:
            measured(root, cache_dir, what)
        return
    with tempfile.TemporaryDirectory() as folder:
        root, cache_dir = Path(folder, "images"), Path(folder, "cache")
        started = time.perf_counter()
        plant(root, arguments.image, arguments.files, arguments.classes)
        print(f"made in {time.perf_counter() - started:.0f} s", flush=True)
        for what in ("first", "again", "make known", "known"):
            if what == "first" and arguments.cold:
                subprocess.run(["sync"], check=True)
                Path("/proc/sys/vm/drop_caches").write_text("3")
            measure = ["--measure", str(root), str(cache_dir), what]
            subprocess.run([sys.executable, __file__, str(arguments.image), *measure], check=True)


if __name__ == "__main__":
    main()
