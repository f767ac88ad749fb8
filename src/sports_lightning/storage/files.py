"""Atomic writing of files, and CSV files that read back unchanged."""

import csv
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sports_lightning.errors import UserError, WriteFailed

# What the readers of JSON, CSV and gzip files raise on a torn or foreign file, and their callers on its content.
DAMAGED = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, StopIteration),
    *(csv.Error, zlib.error),
)

# The start of cells that a spreadsheet would evaluate (OWASP, "CSV Injection"), unless they are numbers.
_FORMULA = re.compile(r"[=+\-@\t\r]")
_PATHS = ("path", "image")  # columns of files
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_QUOTED = re.compile(r"'+[=+\-@\t\r]")


def checkpoint_file(ckpt_path: str | Path) -> Path:
    """`ckpt_path` as a path, with `~` expanded; of a run folder, the checkpoint of its best epoch.

    Raises:
        UserError: it is not a file, and holds no such checkpoint.
        OSError: it is not accessible.
    """
    path = best_checkpoint(Path(ckpt_path).expanduser())
    if not path.is_file():
        problem = "holds no checkpoints/best.ckpt" if path.is_dir() else "is not a file"
        raise UserError(f"ckpt_path={path} {problem}; train writes RUN_FOLDER/checkpoints/best.ckpt")
    return path


def checkpoint_digest(ckpt_path: str | Path) -> str:
    """BLAKE2b digest, in hexadecimal, of a checkpoint, or of an exported file and its weights beside it."""
    path = checkpoint_file(ckpt_path)
    digest = hashlib.blake2b(digest_size=16)
    for file in (path, path.with_suffix(".bin")):  # the weights of OpenVINO's files
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
    return digest.hexdigest()


def is_utf8(text: str) -> bool:
    """Whether no byte of a text that was read with "surrogateescape" was other than UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def best_checkpoint(path: Path) -> Path:
    """The checkpoint of the best epoch if `path` is a run folder, or its folder of checkpoints; else `path` itself."""
    checkpoints = (path / "checkpoints" / "best.ckpt", path / "best.ckpt")
    # Not Path.is_file, which raises an error about a path that nobody named where the folder is not accessible.
    return next((file for file in checkpoints if os.path.isfile(file)), path)


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
    sync_folder(path.parent)  # the new name


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
                # Windows flushes only files that are open for writing; elsewhere a read-only file can be flushed too.
                _sync(each, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            except OSError as error:
                raise WriteFailed(f"can't write {each}: {error.strerror}") from error
        elif each.is_dir():
            with suppress(OSError):  # not supported by some network drives
                _sync(each)


def sync_folder(folder: str | Path) -> None:
    """Flush the names in a folder to disk, where its drive supports that."""
    with suppress(OSError):
        _sync(Path(folder))


def _sync(path: Path, mode: int = os.O_RDONLY) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically; bytes of file names that are not UTF-8 (surrogate escapes) become `\\udc80` and so on."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write indented JSON atomically; floats keep all their digits."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that `write_csv` wrote, as {column: value}.

    Raises:
        ValueError: a row is torn.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:  # bytes of names in version 0.1
        rows = list(csv.DictReader(file))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} has a torn row")
    return [{key: unquoted(value, key) for key, value in row.items()} for row in rows]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically; floats keep all their digits.

    A spreadsheet would run a cell such as `=1+1` or `-x` as a formula (OWASP, "CSV Injection"). Such a value of the
    columns "path" and "image" is written as `./=1+1`, which is the same file; any other text gets a leading quote
    mark, which `read_csv` removes. Numbers and all other texts are written unchanged.
    """
    write_text(path, "".join(csv_lines(header, rows)))


def csv_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The header and the rows as `write_csv` writes them, each with its line end; cells may contain further ones."""
    yield _csv_line(header)
    for row in rows:
        yield _csv_line([harmless(value, column) for value, column in zip(row, header, strict=True)])


def _csv_line(cells: Sequence[Any]) -> str:
    has_return = any("\r" in cell for cell in cells if isinstance(cell, str))  # without quotes it would end the row
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerow(cells)
    return buffer.getvalue()


def harmless(value: Any, column: str) -> Any:
    """A cell as `write_csv` writes it, which no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    is_formula = bool(_FORMULA.match(value)) and not _NUMBER.fullmatch(value)
    if column in _PATHS:
        return f"./{value}" if is_formula else value
    return f"'{value}" if is_formula or _QUOTED.match(value) else value


def unquoted(text: str, column: str) -> str:
    """A cell of `write_csv` without the quote mark that protects a spreadsheet."""
    return text[1:] if column not in _PATHS and isinstance(text, str) and _QUOTED.match(text) else text
