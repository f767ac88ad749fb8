"""Reading and decoding on all cores. No torch in here."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # results a thread that wait to be taken


def usable_cores() -> int:
    """Those that a batch system or a sweep leaves to this process; where the system does not say, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """As `map`, in order, in so many threads that run a little ahead: images and a million names do not pile up.

    Where it is left early, what runs in a thread already is not waited for.
    """
    if threads == 1:
        yield from map(function, items)
        return
    pool = _pool(threads, os.getpid())
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept, for starting threads takes as long as decoding an image; a forked process has none of its parent's."""
    return ThreadPoolExecutor(threads)
