"""Decorations: files that show a finished run, drawn after its metrics are written. A run is finished without them."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)


def draw_missing(drawings: Mapping[str, Callable[[Path], None]], folder: Path) -> list[str]:
    """Draw the files that `folder` lacks. If a file cannot be drawn, one line of the log warns of it.

    Args:
        drawings: {file name relative to `folder`: function that writes it}.
        folder: the run folder.

    Returns:
        The names of the files that were drawn.
    """
    drawn = []
    for name, draw in drawings.items():
        if (folder / name).exists():  # files are written atomically: an existing file is complete
            continue
        try:
            draw(folder / name)
            drawn.append(name)
        except Exception as error:  # of any library that draws
            log.warning("%s was not drawn: %s", name, short_reason(error))
    return drawn


def short_reason(error: Exception) -> str:
    """The type and the first line of an exception."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
