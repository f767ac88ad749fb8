"""Which entries of a data folder are not images, and how many of them there are."""

import os
from collections import Counter

from sports_lightning.data.formats import is_image_file, is_image_name

LEFTOVER, LINK, BESIDE = "leftover", "linked folder", "image outside the class folders"  # kinds of entries
# Files and folders of operating systems, NAS devices and notebooks. Names that start with "." are skipped anyway.
_LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "found.000"),
    *("__macosx", "icon\r", "network trash folder", "temporary items"),
    *("lost+found", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot"),
    "__pycache__",
}


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a known leftover of an operating system or program."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def ignored_kind(path: str) -> str:
    """ "" for an image; otherwise "leftover", the extension or "no extension"."""
    name = os.path.basename(path)
    if is_leftover(name):
        return LEFTOVER
    if is_image_name(name) or is_image_file(path):
        return ""
    return os.path.splitext(name)[1].lower() or "no extension"


def describe_ignored(ignored: Counter[str]) -> str:
    """The counts of ignored entries as text, such as "3 .txt, 2 leftovers"; "" if there are none."""
    plurals = {LEFTOVER: "leftovers", LINK: "linked folders", BESIDE: "images outside the class folders"}
    counts = [(count, kind) for kind, count in sorted(ignored.items()) if count]
    return ", ".join(f"{count} {kind if count == 1 else plurals.get(kind, kind)}" for count, kind in counts)
