"""What is known of every image file: the digest of its content, or why it can't be read. Good ones are remembered.

Reading every image once finds damaged files before a training does, and gives the digests by which everything that
is computed from images is stored. An entry holds as long as the file's size and times stay the same. Files are read
by Pillow alone, without torch, so that a mistake in the data is reported at once.
"""

import hashlib
import io
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from sports_lightning.storage.parallel import map_ahead, usable_cores

log = logging.getLogger(__name__)

# A file written within this time of being read could change again without its times telling: it is not remembered.
_RACY_NS = 2_000_000_000

_LARGEST = 2**30  # bytes
_AT_ONCE = 500  # files in a query


class FileCheck(NamedTuple):
    """A file's BLAKE2b digest of 128 bits in hexadecimal, and why it can't be read as an image ("": it can)."""

    digest: str
    problem: str


def check_files(root: Path, paths: Sequence[str], cache_dir: Path | None = None) -> list[FileCheck]:
    """Read every file to its end, but for those that `cache_dir` knows to be good.

    Args:
        root: the folder that the paths are relative to.
        paths: the files.
        cache_dir: where `ledger.sqlite` is kept; None remembers nothing.
    """
    latest = time.time_ns() - _RACY_NS
    entries = _recall(root, paths, cache_dir) if cache_dir else [None] * len(paths)
    new = [i for i, entry in enumerate(entries) if entry is None]
    stats = [_stat(os.path.join(root, paths[i])) for i in new]

    def read(i: int) -> FileCheck:
        return _read(root / paths[i])

    found = tqdm(  # shown only where it takes longer than a second or two
        map_ahead(read, new, usable_cores()),
        "checking images", len(new), unit="img", delay=2, leave=False, disable=None,
    )  # fmt: skip
    for i, entry in zip(new, found, strict=True):
        entries[i] = entry
    # What could not be read may be readable next time: with another library, or when a network drive is back.
    lasting = {
        paths[i]: (str(stat), entry.digest)
        for i, stat in zip(new, stats, strict=True)
        if (entry := entries[i]) and not entry.problem and max(stat[1:]) < latest
    }
    if cache_dir and lasting:
        _remember(root, cache_dir, lasting)
    return entries  # type: ignore[return-value]  # none is None by now


def read_file(path: str | Path) -> bytes:
    """The content of a regular file; a pipe or a device would never end.

    Raises:
        OSError: it can't be read.
        ValueError: it is not a regular file, or larger than any image.
    """
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        if found.st_size > _LARGEST:
            raise ValueError(f"{found.st_size:,} bytes, more than {_LARGEST:,}")
        return file.readall()


def printable(path: str | Path) -> str:
    """A path for a message: on one line, and without what would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(path))


def check_size(height: int, width: int) -> None:
    """Refuse what PIL only warns of: a small file that unpacks to an enormous image."""
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{width}×{height} pixels, more than {Image.MAX_IMAGE_PIXELS:,}")


def reason(error: Exception) -> str:
    """Why an image can't be read, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image format that is known"
    return " ".join(str(error).split()) or type(error).__name__


def _read(path: Path) -> FileCheck:
    """JPEGs are decoded at an eighth of their size, which reads every byte in a third of the time."""
    try:
        content = read_file(path)
    except OSError as error:
        return FileCheck("", str(error.strerror))
    except ValueError as error:
        return FileCheck("", str(error))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            check_size(image.height, image.width)
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except Exception as error:  # PIL's decoders raise a dozen types on damaged files; all mean the same here
        return FileCheck(digest, reason(error))
    return FileCheck(digest, "")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else opening a pipe would wait for its other end


def _stat(path: str) -> tuple[int, int, int]:
    """Size in bytes, and the times of the last change of content and of anything, in nanoseconds."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _recall(root: Path, paths: Sequence[str], cache_dir: Path) -> list[FileCheck | None]:
    """What the ledger knows of each file as it is now; nothing without a ledger, or with a damaged one."""
    entries: list[FileCheck | None] = []
    file = cache_dir / "ledger.sqlite"
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as ledger:
            query = "SELECT name, stat, digest FROM entries WHERE folder = ? AND name BETWEEN ? AND ?"
            for folder, of_folder in groupby(paths, os.path.dirname):
                key = _key(root / folder)
                while part := list(islice(of_folder, _AT_ONCE)):  # sorted mostly, so that little else lies between
                    names = [os.fsencode(os.path.basename(path)) for path in part]
                    rows = ledger.execute(query, [key, min(names), max(names)])
                    known = {name: (stat, digest) for name, stat, digest in rows}
                    for path, name in zip(part, names, strict=True):
                        stat, digest = known.get(name, ("", ""))
                        is_known = stat == str(_stat(os.path.join(root, path)))
                        entries.append(FileCheck(digest, "") if is_known else None)
    except sqlite3.OperationalError:  # not there yet, not to be opened, or locked
        return [None] * len(paths)
    except sqlite3.DatabaseError:
        with suppress(OSError):
            file.unlink()
        return [None] * len(paths)
    return entries


def _remember(root: Path, cache_dir: Path, entries: dict[str, tuple[str, str]]) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache_dir / "ledger.sqlite", timeout=60)) as ledger, ledger:
            ledger.execute(
                "CREATE TABLE IF NOT EXISTS entries "
                "(folder BLOB, name BLOB, stat TEXT, digest TEXT, PRIMARY KEY (folder, name)) WITHOUT ROWID"
            )
            key = cache(_key)
            rows = [(key(root / os.path.dirname(p)), os.fsencode(os.path.basename(p)), *e) for p, e in entries.items()]
            ledger.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
    except (OSError, sqlite3.Error) as error:  # costs the next run some seconds, and changes nothing
        log.warning("can't write %s: %s; data.cache_dir=FOLDER sets another place", cache_dir, error)


def _key(folder: Path) -> bytes:
    return os.fsencode(folder.resolve())
