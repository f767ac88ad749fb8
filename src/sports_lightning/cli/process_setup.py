"""Prepare a process for a command, before torch is imported: C libraries, warnings, and fast imports.

docs/log has the measurements behind these settings.
"""

import atexit
import ctypes
import gc
import getpass
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sports_lightning.runs.console import outlast_output

# Warnings of libraries about their own internals, or about choices that the config documents.
_IGNORED_WARNINGS = (
    ".*LeafSpec",
    ".*does not have many workers",
    ".*Checkpoint directory .* exists",
    ".*log_every_n_steps",
    ".*dataloader is not resumable",  # it resumes by its sampler's position, which Lightning does not know
    ".*sync_dist=True",  # about metrics that are the same on every device
    ".*all_gather is deprecated",
    ".*`srun` command is available",  # processes are started without it as well
    "Image size .* exceeds limit",  # such an image is reported as unreadable
)

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # malloc.h
_SPIN_COUNT = "2000"  # about 40 µs, longer than the gap between two operations


def prepare_process() -> None:
    """Set up the C libraries and the warning filters of this process. Call it before torch is imported."""
    if os.environ.get("HYDRA_FULL_ERROR") != "1":  # torch's C++ code warns about what training requests on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.raiseExceptions = False  # a full disk is reported in one line, not once per line of the log
    for pattern in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    outlast_output()
    _make_output_printable()
    _complete_user()
    _tune_c_libraries()


def _make_output_printable() -> None:
    """Let stdout and stderr take file names that are not UTF-8, and any character in a locale without UTF-8 too."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968") and "PYTHONIOENCODING" not in os.environ:
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # as Python does with LANG=C
        else:
            stream.reconfigure(errors="backslashreplace")


def _complete_user() -> None:
    """Give a user id without an account, as in a container, the name and the home folder that libraries ask for."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "user"
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = os.getcwd()


@cache  # the fork handler can't be unregistered, and several of them would add up
def _tune_c_libraries() -> None:
    """Keep freed memory, and let idle OpenMP threads sleep, unless the environment says otherwise.

    `SPORTS_LIGHTNING_MALLOPT=0` leaves the allocator alone; `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT` take precedence.
    """
    if os.environ.get("SPORTS_LIGHTNING_MALLOPT") != "0":
        _keep_freed_memory()
    if "OMP_WAIT_POLICY" not in os.environ:
        # An idle thread of GNU OpenMP spins for several milliseconds before it sleeps. With few cores it takes them
        # from the threads that decode images, and from other processes.
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of requesting zeroed pages from the system in every step."""
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim, register = libc.mallopt, libc.malloc_trim, os.register_at_fork
    except (OSError, AttributeError, TypeError):  # another C library or system
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    # A data worker is a copy of this process: every shared page is copied once it is used again here.
    register(before=lambda: malloc_trim(0))


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables within the block."""
    with variables_restored(*variables):
        os.environ.update(variables)
        yield


@contextmanager
def variables_restored(*names: str) -> Iterator[None]:
    """Restore these environment variables at the end of the block, also after an error."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def quick_imports() -> Iterator[None]:
    """Disable the garbage collector within the block, and exempt all objects that exist at its end.

    Imports create half a million permanent objects. Collecting among them takes a fifth of the time of importing torch,
    Lightning and timm, and a quarter of a second in every later full collection.
    """
    gc.disable()
    atexit.register(gc.unfreeze)  # some libraries (nanobind, for triton) report objects that are frozen at exit
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
