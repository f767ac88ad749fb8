"""Locks on files, by which processes agree on who writes what. No torch in here."""

import errno
import fcntl
import os
from pathlib import Path


def lock(file: Path, wait: bool = False) -> int | None:
    """Make this process the holder of `file` until it closes the returned descriptor or ends, however it ends.

    A POSIX record lock: works on network drives too, data workers do not inherit it, and a process that asks for its
    own gets it, and loses it as soon as it closes either.

    Args:
        file: is created; its folder exists.
        wait: until it is free.

    Returns:
        A file descriptor, or None where another process holds it.

    Raises:
        OSError: the drive has no locks.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # a drive without locks
            raise
        return None
    return descriptor
