"""What a run folder holds, and how its text files are written: whole or not at all."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Write `path` so that a reader finds the old content or the new, never half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write `path` as UTF-8 (a file name's other bytes as they are), whole or not at all."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write indented JSON; floats keep all their digits."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV; floats keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
