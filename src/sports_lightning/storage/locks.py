"""File locks, with which processes coordinate who writes a file."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

try:
    import fcntl

    _has_fcntl = True
except ImportError:  # Windows
    import msvcrt

    _has_fcntl = False

log = logging.getLogger(__name__)

_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process, even if it is killed.

    The library filelock is not used: its `flock` is inherited by forked data workers, which may outlive a killed run.

    On POSIX systems a record lock (`fcntl.lockf`): it works on network drives and forked data workers do not inherit
    it. A process that opens and closes the file a second time loses its lock. On Windows the first byte is locked
    (`msvcrt.locking`).

    Args:
        path: the lock file, created if it is missing; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock; return False if another process holds it.

        Args:
            wait: wait until the lock is free.

        Raises:
            OSError: the drive does not support locks, or the file cannot be created.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, wait)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _BUSY:
                raise
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)  # which also unlocks
            self._descriptor = None

    def __enter__(self) -> "FileLock":
        while not self.acquire(wait=True):  # msvcrt gives up after ten seconds
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def one_at_a_time(target: Path, what: str) -> Iterator[bool]:
    """Wait until no other process works on `target`, and let others wait until this one has finished or ended.

    Yields whether another process worked on it.

    On a drive without locks nobody waits: the work must be harmless if two processes do it.

    Args:
        target: a file or folder, beside which the lock file lies meanwhile; the folder of both exists.
        what: the target, for the log line of a process that has to wait.
    """
    lock, has_waited = FileLock(target.with_name(f".{target.name}.lock")), False
    try:
        if not lock.acquire():
            has_waited = True
            log.info("another process computes %s: waiting for it", what)
            while not lock.acquire(wait=True):  # msvcrt gives up after ten seconds
                pass
    except OSError:
        yield has_waited
        return
    try:
        yield has_waited
    finally:
        with suppress(OSError):
            lock.path.unlink()
        lock.release()


def _lock(descriptor: int, wait: bool) -> None:
    if _has_fcntl:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    else:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
