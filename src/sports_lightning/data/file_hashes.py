"""File-hash index: the digest of every image file, or the reason why it can't be read.

Reading every image once finds damaged files before training does, and computes the digests under which everything
derived from images is cached. Entries of readable files are stored and stay valid while the file's size and times do
not change. Pillow reads the files, without importing torch, so that errors in the data are reported at once.
"""

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import PIL
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from tqdm import tqdm

from sports_lightning.data.arrow_images import find_row, read_row
from sports_lightning.data.formats import (
    check_pixels,
    decoding_problem,
    exceeds_limit,
    has_further_images,
    open_image,
    open_without_blocking,
)
from sports_lightning.data.modes import has_16_bit_colors, high_depth_kind, stored_values
from sports_lightning.storage.code_digest import code_digest
from sports_lightning.storage.locks import one_at_a_time
from sports_lightning.storage.parallel import map_ahead, usable_cores

log = logging.getLogger(__name__)

# A file modified less than this before it is read could change again with the same times: it is not stored.
_RACY_NS = 2_000_000_000

_INDEX = "file_hashes.sqlite"
_MAX_BYTES = 2**30
_AT_ONCE = 500  # files per query


class FileCheck(NamedTuple):
    """Result of reading one file.

    Attributes:
        digest: 128-bit BLAKE2b digest of the content, in hexadecimal.
        problem: why it can't be read as an image; "" if it can.
        pixels: number of pixels that count towards `data.max_pixels`.
        high_depth: what pixels of more than 8 bits are: "integer", "floating-point" or "color"; "" for 8 bits.
        low, high: their smallest and largest value.
        has_more: whether the file holds further images, of an animation or on other pages.
    """

    digest: str
    problem: str
    pixels: int = 0
    high_depth: str = ""
    low: float = 0.0
    high: float = 0.0
    has_more: bool = False


def check_files(root: Path, paths: Sequence[str], cache_dir: Path | None = None) -> list[FileCheck]:
    """Read and check every file, except those that the index knows to be readable.

    Several processes that need the same files wait for the one that reads them.

    Args:
        root: the folder that the paths are relative to.
        paths: the files.
        cache_dir: folder of the index, `file_hashes.sqlite`; None reads every file and stores nothing.
    """
    if cache_dir is None:
        return _check(root, paths, None, [None] * len(paths))
    checks = _load(root, paths, cache_dir)
    if all(checks):
        return checks  # type: ignore[return-value]
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError:  # reported by `_store`
        return _check(root, paths, cache_dir, checks)
    with one_at_a_time(cache_dir / f"files-{_key_digest(root)}", f"the file hashes of {root}") as has_waited:
        return _check(root, paths, cache_dir, _load(root, paths, cache_dir) if has_waited else checks)


def _check(root: Path, paths: Sequence[str], cache_dir: Path | None, checks: list[FileCheck | None]) -> list[FileCheck]:
    new = [i for i, check in enumerate(checks) if check is None]

    def read(i: int) -> tuple[FileCheck, tuple[int, int, int] | None]:
        """The check of a file, and its size and times; None if it is not to be stored."""
        stat = _stat(os.path.join(root, paths[i]))
        is_old = max(stat[1:]) < time.time_ns() - _RACY_NS
        check = _read(root / paths[i])
        # Unreadable files are not stored: another library or a reconnected network drive may make them readable.
        return check, stat if is_old and not check.problem else None

    found = tqdm(  # shown only if it takes more than two seconds
        map_ahead(read, new, usable_cores()),
        "checking images", len(new), unit="img", delay=2, leave=False, disable=None,
    )  # fmt: skip
    stored = {}
    for i, (check, status) in zip(new, found, strict=True):
        checks[i] = check
        if status:  # the state is not computed in the threads: Python 3.11 cannot parse code in two at once
            stored[paths[i]] = _state(status), check
    if cache_dir and stored:
        _store(root, cache_dir, stored)
    return checks  # type: ignore[return-value]  # no None is left


def report_first_images(checks: Iterable[FileCheck]) -> None:
    """One line of the log for the files of which only the first image is used."""
    if several := sum(check.has_more for check in checks):
        log.info("animations and files of several pages, of which only the first image is used: %d", several)


def read_file(path: str | Path) -> bytes:
    """The content of a regular file, or of an image in an Arrow file; reading a pipe or a device might never end.

    Raises:
        OSError: the file can't be read.
        ValueError: it is not a regular file, or larger than 1 GiB.
    """
    try:
        opened = open(path, "rb", buffering=0, opener=open_without_blocking)  # noqa: SIM115  closed below
    except OSError:
        if row := find_row(path):
            return read_row(row)
        raise
    with opened as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > _MAX_BYTES:
            raise ValueError(f"{status.st_size:,} bytes, more than {_MAX_BYTES:,}")
        return file.readall()


def printable(path: str | Path) -> str:
    """A path for a message: on one line, with control characters and bytes that are not UTF-8 escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(path))


def _read(path: Path) -> FileCheck:
    """Read and decode one file. JPEGs are decoded at an eighth of their size: all bytes in a third of the time."""
    try:
        content = read_file(path)
    except OSError as error:
        return FileCheck("", str(error.strerror))
    except ValueError as error:
        return FileCheck("", str(error))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        with open_image(content) as image:
            pixels = check_pixels(image)
            depth = high_depth(image)
            if isinstance(image, JpegImageFile):  # the draft of a HEIC would be its thumbnail
                image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            return FileCheck(digest, "", pixels, *(depth or ("", 0.0, 0.0)), has_further_images(image))
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files
        return FileCheck(digest, decoding_problem(error))


def check_header(path: str) -> FileCheck | None:
    """The check of a file of more than 8 bits or of several images; None for any other, readable or not.

    Images of 8 bits are not decoded, and of JPEGs only the first bytes are read.
    """
    try:
        if _is_jpeg(path):
            return None
        with open_image(read_file(path)) as image:
            depth, has_more = high_depth(image), has_further_images(image)
    except Exception:  # reported when the image is decoded
        return None
    return FileCheck("", "", 0, *(depth or ("", 0.0, 0.0)), has_more) if depth or has_more else None


def reading_problem(path: str) -> str:
    """Why a file cannot be read as an image."""
    return _read(Path(path)).problem or "it could not be decoded"


def _is_jpeg(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0, opener=open_without_blocking) as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(3) == b"\xff\xd8\xff"
    except OSError:  # perhaps a row of an Arrow file
        return False


def high_depth(image: Image.Image) -> tuple[str, float, float] | None:
    """`high_depth`, `low` and `high` of a `FileCheck`; None for an open image of 8 bits, which is not decoded.

    Raises:
        ValueError: a value is infinite or not a number, or 8-bit pixels are signed.
    """
    kind = "color" if has_16_bit_colors(image) else high_depth_kind(image)
    if not kind:
        return None
    values = stored_values(image)
    low, high = float(values.min()), float(values.max())
    # Of several channels with 16 bits, Pillow keeps the upper 8.
    return (kind, low * 256, high * 256 + 255) if kind == "color" else (kind, low, high)


def _stat(path: str) -> tuple[int, int, int]:
    """Size in bytes, and the times of the last content and status changes in nanoseconds; of its file for a row."""
    try:
        status = os.stat(path)
    except OSError:
        row = find_row(path)
        if row is None:
            return 0, 0, 0
        status = os.stat(row.file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _state(stat: tuple[int, int, int]) -> str:
    """What an entry depends on, besides the file's path: its size and times, and the code that has checked it."""
    return f"{stat} {_code()}"


@cache
def _code() -> str:
    return f"{code_digest(__name__)} {PIL.__version__}"


def _load(root: Path, paths: Sequence[str], cache_dir: Path) -> list[FileCheck | None]:
    """The index's valid entry of each file, or None; all None if the index is missing or damaged."""
    checks: list[FileCheck | None] = [None] * len(paths)
    in_order = sorted(range(len(paths)), key=paths.__getitem__)  # so that the range of a query holds few other names
    file = cache_dir / _INDEX
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as index:
            query = (
                "SELECT name, stat, digest, pixels, high_depth, low, high, has_more FROM files "
                "WHERE folder = ? AND name BETWEEN ? AND ?"
            )
            for folder, group in groupby(in_order, lambda i: os.path.dirname(paths[i])):
                key = _key(root / folder)
                while part := list(islice(group, _AT_ONCE)):
                    names = [os.fsencode(os.path.basename(paths[i])) for i in part]
                    rows = index.execute(query, [key, min(names), max(names)])
                    known = {name: entry for name, *entry in rows}
                    for i, name in zip(part, names, strict=True):
                        stat, digest, pixels, *rest = known.get(name, ("", "", 0))
                        is_valid = stat == _state(_stat(os.path.join(root, paths[i]))) and not exceeds_limit(pixels)
                        checks[i] = _from_columns(digest, pixels, *rest) if is_valid else None
    except sqlite3.OperationalError:  # missing, not permitted, or locked
        return [None] * len(paths)
    except sqlite3.DatabaseError:
        with suppress(OSError):
            file.unlink()
        return [None] * len(paths)
    return checks


def _store(root: Path, cache_dir: Path, entries: dict[str, tuple[str, FileCheck]]) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache_dir / _INDEX, timeout=60)) as index, index:
            for earlier in ("entries", "images"):
                index.execute(f"DROP TABLE IF EXISTS {earlier}")  # of earlier versions
            index.execute(
                "CREATE TABLE IF NOT EXISTS files "
                "(folder BLOB, name BLOB, stat TEXT, digest TEXT, pixels INTEGER, high_depth TEXT, low REAL, "
                "high REAL, has_more INTEGER, PRIMARY KEY (folder, name)) WITHOUT ROWID"
            )
            key = cache(_key)
            rows = [
                (key(root / os.path.dirname(path)), os.fsencode(os.path.basename(path)), stat, *_columns(check))
                for path, (stat, check) in entries.items()
            ]
            index.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    except (OSError, sqlite3.Error) as error:  # costs the next run time, and changes no result
        log.warning("can't write %s: %s; data.cache_dir=FOLDER sets another place", cache_dir, error)


def _columns(check: FileCheck) -> tuple[str | float, ...]:
    return check.digest, *check[2:]


def _from_columns(digest: str, pixels: int, kind: str, low: float, high: float, has_more: int) -> FileCheck:
    if not kind and not has_more:
        return FileCheck(digest, "", pixels)  # without new numbers for the usual image
    return FileCheck(digest, "", pixels, kind, low, high, bool(has_more))


def _key(folder: Path) -> bytes:
    return os.fsencode(folder.resolve())


def _key_digest(folder: Path) -> str:
    return hashlib.blake2b(_key(folder), digest_size=8).hexdigest()
