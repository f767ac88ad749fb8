"""Where each image goes: the pattern, and clashes of names."""

import os
import re
import string
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

from sports_lightning.errors import UserError
from sports_lightning.storage.safe_names import safe_name, shortened

FIELDS = ("label", "name", "stem", "suffix", "folder", "date")
_LONGEST = 255  # bytes of a file name, on nearly every system


@dataclass(frozen=True)
class _Date:
    """A date, in any format, without the colons that some systems do not allow in names."""

    date: datetime | None

    def __format__(self, form: str) -> str:
        return format(self.date, form or "%Y-%m-%d").replace(":", "-") if self.date else "undated"


@dataclass(frozen=True)
class Pattern:
    """`pattern` of `conf/organize.yaml`, such as "{label}/{date:%Y}/{name}".

    Attributes:
        text: the pattern.
    """

    text: str

    def check(self) -> None:
        """Raise UserError if images could not be named by this pattern."""
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.text) if name is not None]
            self.target("label", "folder/name.jpg", None)
        except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise UserError(f"pattern={self.text} is not a pattern of {', '.join(FIELDS)}: {error}") from error
        if unknown := [name for name in names if name not in FIELDS]:
            raise UserError(f"pattern={self.text} has the field {unknown[0]!r}: there are {', '.join(FIELDS)}")
        if not re.search(r"\{name\}$|\{suffix\}$", self.text):
            raise UserError(f"pattern={self.text} must end with {{name}} or {{suffix}}, so that files keep their type")
        parts = PurePath(self.text).parts
        if self.text.startswith(("/", "~", "\\")) or ".." in parts or not parts:
            raise UserError(f"pattern={self.text} leaves the folder to: start it with a folder, such as {{label}}")

    def target(self, label: str, image: str, date: datetime | None) -> str:
        """The path of an image below `to`, with `/` between its parts.

        Args:
            label: its class, "unsure" or "none".
            image: its path below `input`.
            date: when it was taken, if that is known.
        """
        path = PurePath(image)
        folder = "/".join(map(safe_name, path.parent.parts)) or "."
        values: dict[str, Any] = {"label": safe_name(label), "folder": folder, "date": _Date(date)}
        values |= {"name": path.name, "stem": path.stem, "suffix": path.suffix}
        filled = self.text.format_map(values)
        return "/".join(part for part in filled.split("/") if part not in ("", "."))


class FreeNames:
    """Names that are free below a folder, also where case or Unicode form do not tell names apart.

    Args:
        to: the folder; it need not exist.
    """

    def __init__(self, to: Path) -> None:
        self.to = to
        self._taken: dict[str, set[str]] = defaultdict(set)  # by folder
        self._listed: set[str] = set()  # folders, by their spelling

    def take(self, target: str, companions: list[str]) -> tuple[str, list[str]]:
        """Take a name for an image and its companions.

        Args:
            target: wanted path below the folder.
            companions: what follows the stem of the image in the names of its companions, such as ".xmp".

        Returns:
            The path that is free, with a number where the wanted one is not, and the paths of the companions.
        """
        folder, _, name = target.rpartition("/")
        taken = self._names(folder)
        path = PurePath(name)
        longest = max(map(_bytes, [path.suffix, *companions]))
        for number in range(1, 10**6):
            mark = "" if number == 1 else f" ({number})"
            short = shortened(path.stem, _LONGEST - longest - len(mark))
            if not short:
                raise UserError(f"{target[:200]}… is too long for the name of a file")
            stem = short + mark
            names = [stem + suffix for suffix in (path.suffix, *companions)]
            if not any(folded(each) in taken for each in names):
                taken.update(map(folded, names))
                paths = [f"{folder}/{each}" if folder else each for each in names]
                return paths[0], paths[1:]
        raise UserError(f"{target} has no free name")

    def _names(self, folder: str) -> set[str]:
        key = folded(folder)
        if folder not in self._listed:
            self._listed.add(folder)
            path = self.to / folder
            if path.is_dir():
                self._taken[key].update(map(folded, os.listdir(path)))
        return self._taken[key]


def folded(name: str) -> str:
    """A name in the form in which names that differ in case or Unicode form only are equal."""
    return unicodedata.normalize("NFC", name).casefold()


def _bytes(name: str) -> int:
    return len(os.fsencode(name))
