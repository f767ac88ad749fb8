"""Threads for reading and decoding files."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # finished results per thread that may wait for the consumer


def usable_cores() -> int:
    """Number of CPU cores that this process may use (its affinity mask; all cores if the system has none)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Like `map`, in order, but computed by `threads` threads that run a bounded number of items ahead.

    If the iterator is closed early, pending items are canceled; running ones are not waited for.
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


def in_background(items: Iterable[Item], most: int) -> Iterator[Item]:
    """The same items, computed by a thread that runs at most `most` items ahead."""
    queue: Queue[tuple[bool, Any]] = Queue(most)
    is_closed = Event()

    def put(is_item: bool, value: Any) -> bool:
        while not is_closed.is_set():
            try:
                queue.put((is_item, value), timeout=0.1)
            except Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:  # raised again by the consumer
            put(False, error)

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = queue.get()
            if is_item:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        is_closed.set()
        thread.join()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool per process (a forked one has no threads), reused because starting threads takes as long as decoding."""
    return ThreadPoolExecutor(threads)
