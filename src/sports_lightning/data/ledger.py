"""What is known of every picture file: the digest of its content, or why it can't be read. Kept between runs.

Reading every picture once finds damaged files before a training does, and gives the digests by which everything that
is computed from pictures is stored. An entry holds as long as the file's size and times stay the same. Files are read
by Pillow alone, without torch, so that a mistake in the data is reported at once.
"""

import hashlib
import io
import logging
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from sports_lightning.errors import UserError

log = logging.getLogger(__name__)

# A file written within this time of being read could change again without its times telling: it is not remembered.
_RACY_NS = 2_000_000_000


class Entry(NamedTuple):
    """A file's BLAKE2b digest of 128 bits in hexadecimal, and why it can't be read as a picture ("": it can)."""

    digest: str
    problem: str


def examine(root: Path, paths: list[str], cache_dir: Path | None = None) -> list[Entry]:
    """Read every file to its end, but for those that `cache_dir` knows already.

    Args:
        root: the folder that the paths are relative to.
        paths: the files.
        cache_dir: where `ledger.sqlite` is kept; None remembers nothing.
    """
    known = _recall(root, cache_dir) if cache_dir else {}
    stats = [_stat(root / path) for path in paths]
    new = [path for path, stat in zip(paths, stats, strict=True) if known.get(path, ("",))[0] != stat]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Shown only where it takes longer than a second or two.
        found = tqdm(
            pool.map(lambda path: _read(root / path), new),
            "checking pictures", len(new), unit="img", delay=2, leave=False, disable=None,
        )  # fmt: skip
        entries = dict(zip(new, found, strict=True))
    if cache_dir and entries:
        latest = time.time_ns() - _RACY_NS
        of_path = dict(zip(paths, stats, strict=True))
        lasting = {path: (of_path[path], *entry) for path, entry in entries.items() if _changed(of_path[path]) < latest}
        _remember(root, cache_dir, lasting)
    return [entries.get(path) or Entry(*known[path][1:]) for path in paths]


def check_size(image: Image.Image) -> None:
    """Refuse what PIL only warns of: a small file that unpacks to an enormous picture."""
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width}×{image.height} pixels, more than {Image.MAX_IMAGE_PIXELS:,}")


def reason(error: Exception) -> str:
    """Why a picture can't be read, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture format that is known"
    return " ".join(str(error).split()) or type(error).__name__


def _read(path: Path) -> Entry:
    """JPEGs are decoded at an eighth of their size, which reads every byte in a third of the time."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Entry("", str(error.strerror))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            check_size(image)
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except Exception as error:  # PIL's decoders raise a dozen types on damaged files; all mean the same here
        return Entry(digest, reason(error))
    return Entry(digest, "")


def _stat(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "0 0 0"
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _changed(stat: str) -> int:
    return max(int(time_ns) for time_ns in stat.split()[1:])


def _recall(root: Path, cache_dir: Path) -> dict[str, tuple[str, str, str]]:
    """{path: (stat, digest, problem)} of the files below `root`; empty without a ledger, or with a damaged one."""
    file = cache_dir / "ledger.sqlite"
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60) as ledger:
            rows = ledger.execute("SELECT path, stat, digest, problem FROM files WHERE root = ?", [_name(root)])
            return {path: (stat, digest, problem) for path, stat, digest, problem in rows}
    except sqlite3.OperationalError:  # not there yet
        return {}
    except sqlite3.DatabaseError:
        file.unlink(missing_ok=True)
        return {}


def _remember(root: Path, cache_dir: Path, entries: dict[str, tuple[str, str, str]]) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(cache_dir / "ledger.sqlite", timeout=60) as ledger:
            ledger.execute(
                "CREATE TABLE IF NOT EXISTS files "
                "(root TEXT, path TEXT, stat TEXT, digest TEXT, problem TEXT, PRIMARY KEY (root, path)) WITHOUT ROWID"
            )
            rows = [(_name(root), path, *entry) for path, entry in entries.items()]
            ledger.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"can't write {cache_dir}: {error}; set data.cache_dir=FOLDER") from error


def _name(root: Path) -> str:
    return str(root.resolve())
