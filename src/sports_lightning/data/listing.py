"""Which picture files there are below a folder. A folder that has not changed since it was listed is not read again."""

import os
import time
from pathlib import Path

from sports_lightning.data.shelf import RACY_NS, Shelf

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def list_pictures(folder: Path, listings: Shelf | None = None) -> list[str]:
    """Picture files below `folder`, by extension, as sorted paths relative to it.

    Hidden entries are left out, and links to folders are not followed.

    Args:
        folder: where to look.
        listings: what earlier commands have found there.
    """
    found: list[str] = []
    below = [""]
    while below:
        place = below.pop()
        files, subfolders = _entries(folder / place, listings)
        found += [os.path.join(place, name) for name in files]
        below += [os.path.join(place, name) for name in subfolders]
    return sorted(found)


def _entries(folder: Path, listings: Shelf | None) -> tuple[list[str], list[str]]:
    """The names of a folder's picture files and of its folders; none where it can't be read.

    A name can't come or go without the folder's own times changing.
    """
    latest = time.time_ns() - RACY_NS
    files, subfolders = [], []
    try:
        found = os.stat(folder)
        times = [found.st_mtime_ns, found.st_ctime_ns]
        kept = listings.get(folder) if listings else None
        if kept and kept["times"] == times:
            return kept["files"], kept["folders"]
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    if entry.name.lower().endswith(EXTENSIONS):
                        files.append(entry.name)
                elif not entry.is_symlink():
                    subfolders.append(entry.name)
    except OSError:
        return [], []
    if listings and max(times) < latest:
        listings.put(folder, {"times": times, "files": files, "folders": subfolders})
    return files, subfolders
