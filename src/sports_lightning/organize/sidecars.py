"""Files that belong to an image and stay with it: sidecars, the raw file of a pair, the video of a Live Photo."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

# Of `IMG_1.JPG`, these are named `IMG_1.xmp` or `IMG_1.JPG.xmp`.
_OF_STEM = (
    *(".xmp", ".aae", ".thm", ".pp3", ".dop", ".cos"),  # edits
    *(".mov", ".mp4"),  # Live Photos and motion photos
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".srf", ".srw", ".pef", ".orf", ".rw2", ".raf", ".3fr"),
    *(".erf", ".iiq", ".kdc", ".mos", ".mef"),
)
_OF_NAME = (".xmp", ".pp3", ".dop")
# Google Takeout names its JSON by the image, in earlier years without the second part, and cuts the name off there. The
# number of `IMG_1(2).jpg` stands behind the name of `IMG_1.jpg`.
_TAKEOUT, _TAKEOUT_LENGTH = ("", ".supplemental-metadata"), 46
_NUMBERED = re.compile(r"(.+)(\(\d+\))(\.[^.]*)?")


@dataclass
class Companions:
    """The companions of images.

    Attributes:
        of_image: {path of an image: names of its companions, in its folder}.
        shared: companions that several images could have, by path; they stay with the first of these images.
    """

    of_image: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    shared: list[str] = field(default_factory=list)


def find_companions(images: Sequence[str]) -> Companions:
    """Find the companions of images in their folders.

    Args:
        images: paths; the order decides which image a shared companion stays with.
    """
    found = Companions()
    taken: set[str] = set()
    own = set(images)
    names_of: dict[str, dict[str, list[str]]] = {}
    for image in images:
        folder, name = os.path.split(image)
        if folder not in names_of:
            names_of[folder] = _by_lower_case(os.scandir(folder))
        for wanted in _candidates(name):
            for companion in names_of[folder].get(wanted, []):
                path = os.path.join(folder, companion)
                if path in own:
                    continue
                if path in taken:
                    found.shared.append(path)
                else:
                    taken.add(path)
                    found.of_image[image].append(companion)
    return found


def companion_target(image: str, companion: str, target_name: str) -> str:
    """The name of a companion beside an image that gets the name `target_name`.

    Args:
        image: name of the image, such as `IMG_1.JPG`.
        companion: its present name, such as `IMG_1.xmp` or `IMG_1.JPG.xmp`.
        target_name: such as `IMG_1 (2).JPG`.
    """
    if companion.lower().startswith(f"{image.lower()}."):
        return target_name + companion[len(image) :]
    if companion.lower().endswith(".json"):  # of Google Takeout, with a number or cut off
        return f"{target_name}.json"
    return PurePath(target_name).stem + companion[len(PurePath(image).stem) :]


def _by_lower_case(entries: Iterable[os.DirEntry[str]]) -> dict[str, list[str]]:
    names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[name.lower()].append(name)
    return found


def _candidates(name: str) -> list[str]:
    stem = PurePath(name).stem.lower()
    names = [*(stem + suffix for suffix in _OF_STEM), *(name.lower() + suffix for suffix in _OF_NAME)]
    originals = [(name.lower(), "")]
    if found := _NUMBERED.fullmatch(name.lower()):
        stem_of_first, number, suffix = found.groups(default="")
        originals.append((stem_of_first + suffix, number))
    for original, number in originals:
        for more in _TAKEOUT:
            names += [f"{original}{more}{number}.json", f"{(original + more)[:_TAKEOUT_LENGTH]}{number}.json"]
    return list(dict.fromkeys(names))  # both are the same for an image without extension
