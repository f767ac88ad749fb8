"""Images in the Arrow files that the library `datasets` writes, addressed like files: FILE.arrow/COLUMN/ROW.

With such paths, everything that reads image files by their path also reads these images. The Arrow files are
memory-mapped: the pages in memory are shared by all threads and data workers.
"""

import os
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from sports_lightning.errors import UserError, import_extra

_SUFFIX = ".arrow"


class ArrowRow(NamedTuple):
    """The address of an image: an Arrow file, a column of it, and the number of the row."""

    file: str
    column: str
    row: int


def row_folder(file: str, column: str) -> str:
    """The path that a row's number, `ROW`, is appended to."""
    return f"{file}/{quote(column, safe='')}"


def row_name(row: int) -> str:
    """The last part of a row's path; alphabetical order is that of the rows."""
    return f"{row:09d}"


def find_row(path: str | os.PathLike[str]) -> ArrowRow | None:
    """The row that a path addresses; None if it is not one of an existing Arrow file."""
    folder, row = os.path.split(path)
    file, column = os.path.split(folder)
    if not file.endswith(_SUFFIX) or not row.isdecimal() or not os.path.isfile(file):
        return None
    return ArrowRow(file, unquote(column), int(row))


def has_row(path: str | os.PathLike[str]) -> bool:
    """Whether a path addresses a row that exists.

    Raises:
        UserError: the file is damaged, or has no such column.
    """
    address = find_row(path)
    try:
        return address is not None and address.row < len(_open_column(address.file, address.column))
    except ValueError as error:  # pyarrow's errors are some, too
        raise UserError(f"{path} can't be read: {' '.join(str(error).split())}") from error


def read_row(address: ArrowRow) -> bytes:
    """The content of an image.

    Raises:
        ValueError: there is no such row or column, or it has no image.
    """
    content = _open_column(address.file, address.column)[address.row]
    if content is None:
        raise ValueError("a row without an image")
    return content


def read_table(file: str) -> Any:
    """A `pyarrow.Table` of an Arrow file, memory-mapped.

    Raises:
        UserError: pyarrow is not installed.
        ValueError: damaged file.
    """
    pyarrow = import_extra("pyarrow", f"{file} needs pyarrow", "huggingface")
    with pyarrow.memory_map(file) as source:  # the table keeps the memory
        return pyarrow.ipc.open_stream(source).read_all()


class _Column:
    """The contents of a column's images: it is binary or, as `datasets` stores images, has the field `bytes`."""

    def __init__(self, file: str, column: str) -> None:
        table = read_table(file)
        if column not in table.column_names:
            raise ValueError(f"{file} has no column {column!r}")
        chunks = table.column(column).chunks
        self.chunks = [embedded(chunk) for chunk in chunks]
        self.ends = np.cumsum([len(chunk) for chunk in chunks])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, row: int) -> bytes | None:
        if row >= len(self):
            raise ValueError(f"row {row} of {len(self)} does not exist")
        at = int(np.searchsorted(self.ends, row, side="right"))
        content: bytes | None = self.chunks[at][row - int(self.ends[at])].as_py()  # from the end of the chunk
        return content


def embedded(chunk: Any) -> Any:
    """The binary `pyarrow.Array` in an array of images."""
    return chunk.field("bytes") if hasattr(chunk, "field") else chunk


_open_column = cache(_Column)  # stays open in this process
