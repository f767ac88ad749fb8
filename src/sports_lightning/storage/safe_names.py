"""Names of files and folders that are valid on every system."""

import os
import re
import unicodedata

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')  # on Windows, and bytes that are no text


def safe_name(text: str) -> str:
    """A text as the name of a file or folder: without separators, at most 200 bytes, never hidden."""
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).rstrip(". ")
    if not name or name.startswith(".") or _RESERVED.fullmatch(name):
        name = f"_{name}"
    return shortened(name, 200)


def shortened(name: str, most: int) -> str:
    """The start of a name that takes at most so many bytes; empty if there is none."""
    while name and len(os.fsencode(name)) > most:
        name = name[:-1]
    return name
