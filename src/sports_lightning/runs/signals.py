"""Signals that ask a command to end: Ctrl-C, SIGTERM and SIGUSR1 (pre-emption). No torch in here.

The first one ends the command in good order: at once, or where training is under way (`deferred`) once it has saved.
A second one ends the process on the spot.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
EXIT_STATUSES = [128 + number for number in _SIGNALS]  # of a command that such a signal has ended

_received = 0
_is_deferred = False


class Interrupted(BaseException):
    """A signal has asked the command to end. Like KeyboardInterrupt, no `except Exception` stops it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.exit_status = 128 + number  # as a shell reports a process that a signal has ended


def listen() -> None:
    """Take the signals, except those that this process was started to ignore (nohup)."""
    global _received
    _received = 0
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def ignore_signals(_: int) -> None:
    """In a data worker (a `worker_init_fn`): let its parent decide. A terminal sends Ctrl-C to both."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def received() -> int:
    """The signal that came, or 0."""
    return _received


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a first signal is only noted in `received`, for somebody to act upon; nobody has by the end: it counts.

    Raises:
        Interrupted: at the end.
    """
    global _is_deferred
    _is_deferred = True
    try:
        yield
    finally:
        _is_deferred = False
    if _received:
        raise Interrupted(_received)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    if not _is_deferred:
        raise Interrupted(_received)
