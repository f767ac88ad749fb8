"""Settings of the C libraries under torch: glibc's allocator, and the threads of GNU OpenMP. No torch in here.

What they bring is in docs/RESULTS.md.
"""

import ctypes
import os
from functools import cache

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # malloc.h
_SPINS = "2000"  # some 40 µs: longer than the gap between two operations


@cache  # what is to be done at a fork can't be taken back, and would pile up
def tune_c_libraries() -> None:
    """Keep freed memory, and let idle threads sleep. To be called before torch is imported.

    What the environment says of OpenMP's waiting stays as it is. Other libraries have no such switches, and do without.
    """
    _keep_freed_memory()
    if "OMP_WAIT_POLICY" not in os.environ:
        # A thread that has nothing to do waits for the next operation by counting to 300,000, several milliseconds. On
        # few cores whoever has something to do waits with it: the one that decodes, or another process.
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, instead of asking the system for zeroed pages at every step.

    It hands them back before a fork.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    # A data worker is a copy of this process: whatever it shares is copied, page by page, once it is used again here.
    os.register_at_fork(before=lambda: malloc_trim(0))
