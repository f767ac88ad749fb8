"""`.sports_lightning.jsonl` in the folder that images are sorted into: what persons have decided, by content."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sports_lightning.errors import UserError
from sports_lightning.organize.plan import PERSON, PlannedImage
from sports_lightning.storage.files import DAMAGED, write_text

FILE = ".sports_lightning.jsonl"


def read_decisions(to: Path) -> dict[str, str]:
    """{digest of an image: the label that a person has given it, "" for one that is to stay where it is}.

    Raises:
        UserError: the file is damaged.
    """
    return {line["digest"]: line["label"] for line in _lines(to)}


def add_decisions(to: Path, images: Iterable[PlannedImage], run: str) -> None:
    """Record the decisions of persons in a plan that was applied in the run folder `run`."""
    new = [
        {"digest": each.digest, "label": each.label, "image": each.image, "run": run}
        for each in images
        if each.decision == PERSON
    ]
    if new:
        _write(to, [*_lines(to), *new])


def remove_decisions(to: Path, run: Path) -> None:
    """Forget the decisions of a run that is undone."""
    lines = _lines(to)
    left = [line for line in lines if os.path.realpath(line["run"]) != os.path.realpath(run)]
    if left:
        if left != lines:
            _write(to, left)
    else:
        with suppress(FileNotFoundError):
            (to / FILE).unlink()


def _lines(to: Path) -> list[dict[str, str]]:
    file = to / FILE
    if not file.is_file():
        return []
    try:
        lines: list[dict[str, str]] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            line["digest"], line["label"], line["run"]
    except DAMAGED as error:
        raise UserError(f"{file} is damaged: remove it to forget the earlier decisions") from error
    return lines


def _write(to: Path, lines: Iterable[dict[str, str]]) -> None:
    write_text(to / FILE, "".join(f"{json.dumps(line)}\n" for line in lines))
