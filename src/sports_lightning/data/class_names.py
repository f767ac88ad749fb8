"""Class names in messages, and what misspelled ones are meant to be."""

import re
import unicodedata
from collections.abc import Iterable


def misspelled_classes(names: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """{name: class} of the names that differ from a class only in case, spaces, hyphens or underscores."""
    by_spelling = {_spelling(name): name for name in classes}
    return {name: by_spelling[_spelling(name)] for name in names if _spelling(name) in by_spelling}


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name)).casefold() or name


def normalize(name: str) -> str:
    """A class name in Unicode normal form C, by which class names are compared."""
    return unicodedata.normalize("NFC", name)


def listed(names: Iterable[str]) -> str:
    """The first five of the names in alphabetical order, quoted, and how many more there are."""
    return first_five([repr(name) for name in sorted(names)])


def first_five(texts: list[str], separator: str = ", ") -> str:
    """The first five of the texts, and how many more there are."""
    return separator.join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
