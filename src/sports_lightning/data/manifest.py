"""Manifests: tables of images, labels and, optionally, splits and groups, as CSV, JSON Lines or Parquet files."""

import codecs
import csv
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sports_lightning.data.arrow_images import has_row
from sports_lightning.data.class_names import first_five, normalize
from sports_lightning.data.file_hashes import printable
from sports_lightning.data.folder_layout import SPLITS, UNSPLIT, split_named
from sports_lightning.data.image_folder import list_images
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.errors import UserError, import_extra
from sports_lightning.storage.files import is_utf8, unquoted
from sports_lightning.storage.packed_strings import PackedStrings

log = logging.getLogger(__name__)

COLUMNS = ("image", "label", "split", "group")
_REQUIRED = COLUMNS[:2]
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan", re.IGNORECASE)
_SHOWN = 80  # characters of a wrong value
Row = tuple[int, Mapping[str, Any]]  # its number, as an editor counts it, and its values by column


def read_manifest(file: Path, root: Path | None, columns: Mapping[str, str]) -> ImageTable:
    """Read a manifest into a table of images, in the order of split, class and path.

    Args:
        file: `.csv` (separated by commas, semicolons or tabs), `.jsonl` or `.parquet`.
        root: the folder that paths are relative to, and all images are in; None: the folder of the file. A path may
            also be relative to the folder of the file, or lack its extension.
        columns: the names of the columns image, label, split and group in the file; the latter two may be missing if
            they have their default names.

    Raises:
        UserError: a missing file or column, or a row with a wrong image, label or split; the message gives its number.
    """
    if not file.is_file():
        raise UserError(f"data.manifest={file} is not a file")
    base = file.parent if root is None else root
    if not base.is_dir():
        raise UserError(f"data.root={base} is not a folder; the images of data.manifest={file} are looked for in it")
    rows = _read_rows(file)
    first = next(rows, None)
    if first is None:
        raise UserError(f"data.manifest={file} has no rows")
    _check_columns(file, list(first[1]), columns)
    find = _ImageFinder(file, base)
    seen: dict[str, int] = {}
    found = []
    for number, row in chain([first], rows):
        path = find(number, row.get(columns["image"]))
        if (other := seen.setdefault(path, number)) != number:
            raise UserError(f"{file}, row {number}: {path} is the image of row {other}, too: keep one of the rows")
        label = class_name(f"{file}, row {number}", row.get(columns["label"]))
        split = split_code(f"{file}, row {number}", _text(row, columns["split"]))
        found.append((split, label, path, _text(row, columns["group"])))
    return build_table(str(file), base, found)


def read_splits(file: Path) -> dict[str, int]:
    """{path, in the form NFC: position in `SPLITS`, or `UNASSIGNED`} of a manifest, whether its images exist or not.

    Raises:
        UserError: a missing file or column, or a wrong split.
    """
    if not file.is_file():
        raise UserError(f"{file} is not a file")
    rows = list(_read_rows(file))
    _check_columns(file, list(rows[0][1]) if rows else [], {name: name for name in COLUMNS})
    paths = [normalize(_unescaped(os.path.normpath(str(row["image"])))) for _, row in rows]
    codes = [split_code(f"{file}, row {number}", _text(row, "split")) for number, row in rows]
    return dict(zip(paths, codes, strict=True))


def build_table(place: str, root: Path, rows: list[tuple[int, str, str, str]]) -> ImageTable:
    """The table of some rows, in the order of split, class and path. One line of the log counts the images.

    Args:
        place: where the rows are from, for messages.
        root: the folder that the paths are relative to.
        rows: (split, as a position in `SPLITS` or `UNASSIGNED`; class; path; group, "" if it has none) of each image;
            sorted in place.
    """
    rows.sort()
    names = sorted({label for _, label, _, _ in rows})
    label_of = {name: label for label, name in enumerate(names)}
    splits = np.array([split for split, *_ in rows], dtype=np.int8)
    labels = np.array([label_of[label] for _, label, *_ in rows], dtype=np.int64)
    groups = None
    if any(group for *_, group in rows):
        number: dict[str, int] = {}  # an image without a group is a group of its own
        groups = np.array([number.setdefault(group or f"\0{path}", len(number)) for *_, path, group in rows])
    present = {code: UNSPLIT if code == UNASSIGNED else SPLITS[code] for code in np.unique(splits).tolist()}
    classes = {split: [names[i] for i in np.unique(labels[splits == code])] for code, split in present.items()}
    places = {split: f"{place} (split {split})" for split in SPLITS} | {UNSPLIT: place}
    paths = PackedStrings(path for _, _, path, _ in rows)
    needs = f"{place} needs rows of the splits train, val and test, or no split"
    counts = ", ".join(f"{(splits == code).sum():,} {split or 'in no split'}" for code, split in present.items())
    log.info("%s: %s", place, counts)
    return ImageTable(root, names, paths, labels, splits, groups, classes, places, needs)


def _read_rows(file: Path) -> Iterator[Row]:
    readers = {".csv": read_csv_rows, ".tsv": read_csv_rows, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"data.manifest={file} must be a .csv, .jsonl or .parquet file")
    return reader(file)


def read_csv_rows(file: Path) -> Iterator[Row]:
    """The rows of a CSV file of any program: UTF-8 or UTF-16, separated by commas, semicolons or tabs.

    Raises:
        UserError: not such a file.
    """
    number = 0  # of rows that were read
    with _open(file) as lines:
        try:
            header = lines.readline()
            lines.seek(0)
            reader = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
            names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            if double := [name for name in names if name and names.count(name) > 1]:
                raise UserError(f"{file} has two columns {double[0]!r}: rename one of them")
            for row in reader:
                number = reader.line_num
                if None in row or None in row.values():
                    raise UserError(f"{file}, row {number}: not as many values as columns")
                yield number, row
        except (csv.Error, UnicodeError) as error:
            raise UserError(f"{file}, row {number + 1}: not a CSV file ({error})") from error


def _open(file: Path) -> TextIO:
    """Open a text file: as UTF-16 if its first bytes say so, as in Excel's "Unicode text", else as UTF-8."""
    with file.open("rb") as opened:
        is_utf16 = opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "strict") if is_utf16 else ("utf-8-sig", "surrogateescape")
    return file.open(newline="", encoding=encoding, errors=errors)


def _read_jsonl(file: Path) -> Iterator[Row]:
    number = 0
    with _open(file) as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f'{file}, row {number}: not a JSON object, such as {{"image": "a.jpg", …}}')
                yield number, row
        except ValueError as error:  # a UnicodeError is one, too
            raise UserError(f"{file}, row {number}: not JSON ({error})") from error


def _read_parquet(file: Path) -> Iterator[Row]:
    need = f"data.manifest={file} needs pyarrow"
    pyarrow, parquet = (import_extra(name, need, "parquet") for name in ("pyarrow", "pyarrow.parquet"))
    try:
        table = parquet.ParquetFile(file)
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise UserError(f"data.manifest={file} can't be read: {str(error).splitlines()[0]}") from error


def _check_columns(file: Path, header: list[str], columns: Mapping[str, str]) -> None:
    for role in COLUMNS:
        name = columns[role]
        if name not in header and (role in _REQUIRED or name != role):
            raise UserError(
                f"{file} has no column {name!r} for the {role}: it has {first_five([repr(n) for n in header])}; set "
                f"data.manifest_columns.{role}=COLUMN"
            )


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    is_missing = value is None or value != value  # NaN, as pandas has it
    return "" if is_missing else str(value).strip()


def label_cell(name: str) -> str:
    """A class name as a cell of a manifest: with a quote mark before a name that would be read in another way."""
    return f"'{name}" if _is_odd(name) else name


def _is_odd(name: str) -> bool:
    rest = name.lstrip("'")
    return rest != rest.strip() or name != name.strip() or bool(_NUMBER.fullmatch(rest) and not name.isdecimal())


def class_name(where: str, value: Any) -> str:
    """The class of a label. Whole numbers are names of classes; other numbers are not, without a quote mark before.

    Raises:
        UserError: it is empty, a number, or not UTF-8; the message starts with `where`.
    """
    if isinstance(value, str):
        value = unquoted(value, "label")
        if value[:1] == "'" and _is_odd(value[1:]):  # see `label_cell`
            return normalize(value[1:])
    text = "" if value is None else str(value).strip()
    if not is_utf8(text):
        raise UserError(f"{where}: the label {printable(text[:_SHOWN])} is not UTF-8: save the table as CSV UTF-8")
    if not text:
        raise UserError(f"{where}: the label is empty: fill it in, or remove the row")
    if isinstance(value, bool) or not isinstance(value, str | int) or _is_odd(text):
        shown = printable(text[:_SHOWN])
        raise UserError(f"{where}: the label {shown} is no name of a class: use a text or a whole number")
    return normalize(_unescaped(text))


def split_code(where: str, text: str) -> int:
    """The position in `SPLITS` of the split that a text names, or `UNASSIGNED` if it is empty.

    Raises:
        UserError: it is another text; the message starts with `where`.
    """
    if not text:
        return UNASSIGNED
    split = split_named(text)
    if split is None:
        raise UserError(f"{where}: the split {text!r} must be train, val or test, or empty")
    return SPLITS.index(split)


_ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")


def _unescaped(path: str) -> str:
    """A path with its bytes that are not UTF-8, which `write_text` escapes."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), path)


class _ImageFinder:
    """Finds the file that a row of a manifest names, as a path relative to the root.

    Args:
        file: the manifest.
        root: the folder with all images.
    """

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, os.path.abspath(root)
        self.bases = list(dict.fromkeys([self.root, os.path.abspath(file.parent)]))
        self.listed: dict[str, list[str]] | None = None

    def __call__(self, number: int, value: Any) -> str:
        where = f"{self.file}, row {number}"
        raw = "" if value is None else str(value)
        text = raw.strip()
        if not text or "\0" in text:
            raise UserError(f"{where}: the image is empty: fill it in, or remove the row")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UserError(f"{where}: the image {printable(text[:_SHOWN])} is no path")
        for name in dict.fromkeys([raw, text, _unescaped(raw)]):  # a path may start or end with a space
            for base in self.bases:
                path = os.path.normpath(os.path.join(base, name))
                if os.path.isfile(path) or has_row(path):
                    return self._relative(path, where)
        if found := self._listed(text):
            if len(found) > 1:
                raise UserError(f"{where}: the image {printable(text)} could be {found[0]} or {found[1]}")
            return found[0]
        self._relative(os.path.normpath(os.path.join(self.root, text)), where)
        places = " or ".join(self.bases)
        raise UserError(f"{where}: there is no image {printable(text[:_SHOWN])} in {places}; set data.root=FOLDER")

    def _relative(self, path: str, where: str) -> str:
        if not path.startswith(self.root.rstrip(os.sep) + os.sep):
            shown = printable(path)
            raise UserError(f"{where}: {shown} is outside {self.root}: set data.root to a folder with all images")
        return os.path.relpath(path, self.root)

    def _listed(self, text: str) -> list[str]:
        """The image files of this name in another Unicode form, or, if it has no extension, with one."""
        if self.listed is None:
            self.listed = {}
            for path in list_images(Path(self.root)):
                for known in (path, os.path.splitext(path)[0]):
                    self.listed.setdefault(normalize(known), []).append(path)
        return sorted(self.listed.get(normalize(os.path.normpath(text)), []))
