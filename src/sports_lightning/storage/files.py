"""Files: written atomically, read as they were written."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sports_lightning.errors import UserError, WriteFailed

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # the last one so that what is read is what was written


def checkpoint_file(ckpt_path: str | Path) -> Path:
    """The file that `ckpt_path` names.

    Raises:
        UserError: there is none.
    """
    path = Path(ckpt_path).expanduser()
    if not path.is_file():
        raise UserError(f"ckpt_path={path} is not a file; train writes RUN_FOLDER/checkpoints/best.ckpt")
    return path


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `path` so that what is there is the old content or the new, never half of it, whenever the power goes.

    Several processes may do so at once, as those that take part in a search do with its table: the last one's stays.

    Raises:
        NotWritten: no room, or no right to; the old content is still there.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WriteFailed(f"can't write {path}: {error.strerror}; what was there before still is") from error
    with suppress(OSError):  # some network drives can't
        _sync(path.parent)  # the new name


def remove_partial_files(folder: Path) -> None:
    """Remove what `write_bytes` left in a folder that no other process writes into, where it was killed."""
    for partial in folder.glob("*.partial"):
        if len(partial.suffixes) > 1 and partial.suffixes[-2][1:].isdecimal():  # others' files may end so, too
            partial.unlink()


def sync_to_disk(path: Path) -> None:
    """Let a file, or a folder with all that is below it, reach the disk before anything that is written from now on.

    Raises:
        NotWritten: a file does not get there.
    """
    for each in (*path.rglob("*"), path, path.parent):
        if each.is_file():
            try:
                _sync(each)
            except OSError as error:
                raise WriteFailed(f"can't write {each}: {error.strerror}") from error
        elif each.is_dir():
            with suppress(OSError):  # some network drives can't
                _sync(each)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `path` as UTF-8 (a file name's other bytes as they are), whole or not at all."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write indented JSON; floats keep all their digits."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that `write_csv` wrote, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _unquoted(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV; floats keep all their digits. A text that a spreadsheet would take for a formula gets a quote mark.

    So says OWASP, "CSV Injection".
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"'{v}" if isinstance(v, str) and v.startswith(_FORMULA) else v for v in row])
    write_text(path, buffer.getvalue())


def _unquoted(text: str) -> str:
    return text[1:] if isinstance(text, str) and text.startswith("'") and text[1:].startswith(_FORMULA) else text
