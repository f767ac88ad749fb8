"""Importing this module hides what Windows or macOS lack; conftest does so with SPORTS_LIGHTNING_HIDE_LINUX=1.

Hidden are `fcntl`, CPU affinity, SIGUSR1, fork handlers and forked data-loading workers. `msvcrt`, with
which the package locks files on Windows, is a stand-in on top of the hidden `fcntl`.
"""

import errno
import fcntl
import multiprocessing
import os
import signal
import sys
import types

# Imported before anything is hidden: their versions for Linux need it.
import filelock  # noqa: F401
import torch  # noqa: F401
import wandb  # noqa: F401


class WindowsLocks(types.ModuleType):
    """The part of `msvcrt` that locks files."""

    LK_LOCK, LK_NBLCK = 1, 2

    @staticmethod
    def locking(descriptor: int, mode: int, _: int) -> None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if mode == WindowsLocks.LK_LOCK else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error


sys.modules["fcntl"] = None  # type: ignore[assignment]  # importing it raises ImportError
sys.modules["msvcrt"] = WindowsLocks("msvcrt")
for name in ("sched_getaffinity", "sched_setaffinity", "register_at_fork"):
    delattr(os, name)
user_signal = signal.SIGUSR1
del signal.SIGUSR1
import sports_lightning.runs.signals  # noqa: E402, F401  # reads the names once; Lightning's version for Linux needs all

signal.SIGUSR1 = user_signal
multiprocessing.set_start_method("spawn")
