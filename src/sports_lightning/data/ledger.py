"""What is known of every picture file: the digest of its content, or why it can't be read. Good ones are remembered.

Reading every picture once finds damaged files before a training does, and gives the digests by which everything that
is computed from pictures is stored. An entry holds as long as the file's size and times stay the same. Files are read
by Pillow alone, without torch, so that a mistake in the data is reported at once.
"""

import hashlib
import io
import os
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from sports_lightning.data.shelf import RACY_NS, Shelf

_LARGEST = 2**30  # bytes
_AT_ONCE = 500  # files given to the threads


class Entry(NamedTuple):
    """A file's BLAKE2b digest of 128 bits in hexadecimal, and why it can't be read as a picture ("": it can)."""

    digest: str
    problem: str


def examine(root: Path, paths: Sequence[str], cache_dir: Path | None = None) -> list[Entry]:
    """Read every file to its end, but for those that `cache_dir` knows to be good.

    Args:
        root: the folder that the paths are relative to.
        paths: the files.
        cache_dir: where `ledger.sqlite` is kept; None remembers nothing.
    """
    latest = time.time_ns() - RACY_NS
    entries: list[Entry | None] = []
    new: dict[int, list[int]] = {}  # position: size and times
    with Shelf(cache_dir, "ledger") as ledger:
        for folder, of_folder in groupby(paths, os.path.dirname):
            known = ledger.get(root / folder) or {}
            for path in of_folder:
                found = _stat(os.path.join(root, path))
                *then, digest = known.get(os.path.basename(path), [""])
                if then == found:
                    entries.append(Entry(digest, ""))
                else:
                    new[len(entries)] = found
                    entries.append(None)
        for i, entry in zip(new, _read_all([os.path.join(root, paths[i]) for i in new]), strict=True):
            entries[i] = entry
        # What could not be read may be readable next time: with another library, or when a network drive is back.
        lasting: dict[str, dict[str, list[Any]]] = {}
        for i, found in new.items():
            digest, problem = entries[i] or Entry("", "not read")
            if not problem and max(found[1:]) < latest:
                folder, name = os.path.split(paths[i])
                lasting.setdefault(folder, {})[name] = [*found, digest]
        for folder, files in lasting.items():
            ledger.put(root / folder, {**(ledger.get(root / folder) or {}), **files})
    return entries  # type: ignore[return-value]  # none is None by now


def _read_all(files: list[str]) -> Iterator[Entry]:
    """What each file holds, several at once."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # In parts, for a pool takes on all that it is given. Shown only where it takes longer than a second or two.
        yield from tqdm(
            (e for first in range(0, len(files), _AT_ONCE) for e in pool.map(_read, files[first : first + _AT_ONCE])),
            "checking pictures", len(files), unit="img", delay=2, leave=False, disable=None,
        )  # fmt: skip


def read_file(path: Path) -> bytes:
    """The content of a regular file; a pipe or a device would never end.

    Raises:
        OSError: it can't be read.
        ValueError: it is not a regular file, or larger than any picture.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        if found.st_size > _LARGEST:
            raise ValueError(f"{found.st_size:,} bytes, more than {_LARGEST:,}")
        return file.read()


def printable(path: str | Path) -> str:
    """A path for a message: on one line, and without what would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(path))


def check_size(image: Image.Image) -> None:
    """Refuse what PIL only warns of: a small file that unpacks to an enormous picture."""
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width}×{image.height} pixels, more than {Image.MAX_IMAGE_PIXELS:,}")


def reason(error: Exception) -> str:
    """Why a picture can't be read, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture format that is known"
    return " ".join(str(error).split()) or type(error).__name__


def _read(path: str) -> Entry:
    """JPEGs are decoded at an eighth of their size, which reads every byte in a third of the time."""
    try:
        content = read_file(Path(path))
    except OSError as error:
        return Entry("", str(error.strerror))
    except ValueError as error:
        return Entry("", str(error))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            check_size(image)
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except Exception as error:  # PIL's decoders raise a dozen types on damaged files; all mean the same here
        return Entry(digest, reason(error))
    return Entry(digest, "")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else opening a pipe would wait for its other end


def _stat(path: str) -> list[int]:
    """Size in bytes, and the times of the last change of content and of anything, in nanoseconds."""
    try:
        found = os.stat(path)
    except OSError:
        return [0, 0, 0]
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
