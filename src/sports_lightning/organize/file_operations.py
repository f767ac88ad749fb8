"""One file to one place: copied, moved or linked, never over another file.

Whatever a process that was killed in the middle of it has done, `taking_back` undoes.
"""

import base64
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sports_lightning.errors import UserError, WriteFailed
from sports_lightning.storage.files import sync_folder

COPY, MOVE, HARDLINK, SYMLINK, WRITE = "copy", "move", "hardlink", "symlink", "write"
MODES = (COPY, MOVE, HARDLINK, SYMLINK)
_BLOCK = 2**20  # bytes
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of drives that have no hard links


@dataclass(frozen=True)
class Operation:
    """What is done with one file.

    Attributes:
        kind: one of MODES; or "write", a new file with `content` instead of a copy of the source.
        source, target: absolute paths; a "write" may have no source.
        digest: of what the target will hold; of the source's content, unless `kind` is "write".
        size: of the source in bytes.
        mtime: modification time of the source in nanoseconds.
        mode: permissions of the source; 0: they are not known.
        content: of a "write", in base64.
        original: with a "write" that removes its source, the source's content in base64, from which it is restored.
    """

    kind: str
    source: str
    target: str
    digest: str
    size: int
    mtime: int
    mode: int = 0
    content: str = ""
    original: str = ""

    @property
    def partial(self) -> str:
        """Where a copy is written before it gets its name."""
        return _partial(self.target)


def _partial(target: str) -> str:
    name = hashlib.blake2b(os.fsencode(target), digest_size=8).hexdigest()
    return os.path.join(os.path.dirname(target), f".{name}.partial")


def digest_of(path: str) -> str:
    """128-bit BLAKE2b digest of a file's content, in hexadecimal, as of `data.file_hashes`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def content_digest(content: bytes) -> str:
    """`digest_of` a file with this content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def carry_out(operation: Operation) -> None:
    """Carry out an operation whose target does not exist.

    Raises:
        UserError: the source has changed since the plan, the target is another file, or a drive has no such links.
        WriteFailed: no space or no permission.
    """
    check(operation)
    try:
        _CARRY_OUT[operation.kind](operation)
    except OSError as error:
        with suppress(OSError):
            remove_partial(operation.target)
        if error.errno == errno.EXDEV:
            raise UserError(
                "mode=hardlink needs input and to on one drive: choose mode=copy or mode=symlink"
            ) from error
        if isinstance(error, FileExistsError):
            raise UserError(f"{operation.target} exists and is another file: nothing is overwritten") from error
        raise WriteFailed(
            f"can't {operation.kind} {operation.source} to {operation.target}: {error.strerror}"
        ) from error


def check(operation: Operation) -> None:
    """Raise UserError if the source has changed since the plan."""
    if not operation.source:
        return
    try:
        status = os.stat(operation.source, follow_symlinks=False)
    except FileNotFoundError as error:
        raise UserError(f"{operation.source} is gone since the plan: plan again") from error
    if (status.st_size, status.st_mtime_ns) != (operation.size, operation.mtime):
        raise UserError(f"{operation.source} has changed since the plan: plan again")


def are_hard_links(operation: Operation) -> bool:
    """Whether source and target are two names of one file. Two paths to one name do not count."""
    if not os.path.lexists(operation.target):
        return False
    one, other = os.lstat(operation.source), os.lstat(operation.target)
    is_one_file = stat.S_ISREG(one.st_mode) and os.path.samestat(one, other) and one.st_nlink > 1
    return is_one_file and not is_one_place(operation)


def is_one_place(operation: Operation) -> bool:
    """Whether source and target are the same place, by a link of any kind in either path."""
    return os.path.realpath(operation.source) == os.path.realpath(operation.target)


def _copy(operation: Operation) -> None:
    digest = hashlib.blake2b(digest_size=16)
    with open(operation.source, "rb") as source, open(operation.partial, "wb") as partial:
        while block := source.read(_BLOCK):
            digest.update(block)
            partial.write(block)
        partial.flush()
        os.fsync(partial.fileno())
    if digest.hexdigest() != operation.digest:
        os.unlink(operation.partial)
        raise UserError(f"{operation.source} has changed since the plan: plan again")
    shutil.copystat(operation.source, operation.partial)
    _name(operation.partial, operation.target)


def _move(operation: Operation) -> None:
    try:
        os.link(operation.source, operation.target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINKS and not os.path.lexists(operation.target):
            os.rename(operation.source, operation.target)
            return
        if error.errno != errno.EXDEV:
            raise
        _copy(operation)
    sync_folder(os.path.dirname(operation.target))
    is_verified = not is_one_place(operation) and digest_of(operation.target) == operation.digest
    if are_hard_links(operation) or is_verified:
        os.unlink(operation.source)


def _hardlink(operation: Operation) -> None:
    os.link(operation.source, operation.target, follow_symlinks=False)


def _symlink(operation: Operation) -> None:
    os.symlink(operation.source, operation.target)


def write_content(operation: Operation) -> None:
    """Write the content of a "write" to its target, and remove its source if that has an `original`."""
    with open(operation.partial, "wb") as partial:
        partial.write(base64.b64decode(operation.content))
        partial.flush()
        os.fsync(partial.fileno())
    if operation.source:
        shutil.copymode(operation.source, operation.partial)
    elif operation.mtime:  # a file that is restored
        os.chmod(operation.partial, operation.mode)
        os.utime(operation.partial, ns=(operation.mtime, operation.mtime))
    _name(operation.partial, operation.target)
    if operation.original:
        os.unlink(operation.source)


def remove_partial(target: str) -> None:
    """Remove what a killed process left of an unfinished copy to `target`."""
    with suppress(FileNotFoundError):
        os.unlink(_partial(target))


def _name(partial: str, target: str) -> None:
    """Give a finished file its name, which must be free."""
    try:
        os.link(partial, target)
        os.unlink(partial)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(target):
            raise
        os.rename(partial, target)
    sync_folder(os.path.dirname(target))


_CARRY_OUT: dict[str, Callable[[Operation], None]] = {
    COPY: _copy, MOVE: _move, HARDLINK: _hardlink, SYMLINK: _symlink, WRITE: write_content,
}  # fmt: skip


def nearest_existing(path: str | Path) -> Path:
    """A path, or its nearest parent that exists."""
    return next(each for each in (Path(path), *Path(path).parents) if each.exists())


def drive_of(path: str | Path) -> int:
    """The number of the drive of a path, or of its nearest parent that exists."""
    return os.stat(nearest_existing(path)).st_dev
