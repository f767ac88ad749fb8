"""Atomic writing of files, and CSV files that read back unchanged."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sports_lightning.errors import UserError, WriteFailed

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # the last one makes the escape reversible


def checkpoint_file(ckpt_path: str | Path) -> Path:
    """`ckpt_path` as a path, with `~` expanded.

    Raises:
        UserError: it is not a file.
    """
    path = Path(ckpt_path).expanduser()
    if not path.is_file():
        raise UserError(f"ckpt_path={path} is not a file; train writes RUN_FOLDER/checkpoints/best.ckpt")
    return path


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `path` atomically: after a crash or a power failure it holds either the old content or the new one.

    Several processes may write the same file at once (such as the table of a search); the last one wins.

    Raises:
        WriteFailed: no space or no permission; the old content is unchanged.
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
        raise WriteFailed(f"can't write {path}: {error.strerror}; its previous content is unchanged") from error
    with suppress(OSError):  # not supported by some network drives
        _sync(path.parent)  # the new name


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files of a killed `write_bytes` from a folder that no other process writes into."""
    for partial in folder.glob("*.partial"):
        if len(partial.suffixes) > 1 and partial.suffixes[-2][1:].isdecimal():  # not another program's file
            partial.unlink()


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder with everything below it, to disk.

    Raises:
        WriteFailed: a file cannot be flushed.
    """
    for each in (*path.rglob("*"), path, path.parent):
        if each.is_file():
            try:
                _sync(each)
            except OSError as error:
                raise WriteFailed(f"can't write {each}: {error.strerror}") from error
        elif each.is_dir():
            with suppress(OSError):  # not supported by some network drives
                _sync(each)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically; bytes of file names that are not UTF-8 (surrogate escapes) are written unchanged."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write indented JSON atomically; floats keep all their digits."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that `write_csv` wrote, as {column: value}."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _unquoted(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically; floats keep all their digits.

    Texts that a spreadsheet would evaluate as a formula are prefixed with a quote mark (OWASP, "CSV Injection").
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"'{v}" if isinstance(v, str) and v.startswith(_FORMULA) else v for v in row])
    write_text(path, buffer.getvalue())


def _unquoted(text: str) -> str:
    return text[1:] if isinstance(text, str) and text.startswith("'") and text[1:].startswith(_FORMULA) else text
