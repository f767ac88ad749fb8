"""Signals that ask a run to stop: Ctrl-C, SIGTERM and SIGUSR1 (pre-emption). This module does not import torch.

The first signal raises `Interrupted`; during training (`deferred`) it is only recorded, and the run stops once its
checkpoint is saved. A second signal ends the process of a command at once. Where training is called from Python, such
as in a notebook, the second signal raises `Interrupted` too, and the handlers of the caller are restored afterwards.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows lacks the last one
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
EXIT_STATUSES = [128 + number for number in _SIGNALS]  # of a command that was ended by such a signal

_received = 0
_is_deferred = False
_is_command = False


class Interrupted(BaseException):
    """A signal asked the run to stop. `except Exception` does not catch it, as with KeyboardInterrupt.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.exit_status = 128 + number  # the status that a shell reports for a process that was ended by a signal


def listen() -> None:
    """Handle the signals for the rest of this process, which runs a command."""
    global _received, _is_command
    _received, _is_command = 0, True
    install_handlers()


def install_handlers() -> None:
    """Handle the signals, except those that this process was started to ignore (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows handlers in the main thread only
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def ignore_signals(_: int) -> None:
    """Ignore the signals, as a `worker_init_fn`: a terminal sends Ctrl-C to the parent process too, which decides."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def received() -> int:
    """The number of the signal that was received, or 0."""
    return _received


@contextmanager
def deferred() -> Iterator[None]:
    """Record the first signal in `received`, so that the run can save its checkpoint before it stops.

    Raises:
        Interrupted: at the end, if there was a signal; at once, if there is a second one.
    """
    global _received, _is_deferred
    before = {} if _is_command else {number: signal.getsignal(number) for number in _SIGNALS}
    if not _is_command:
        _received = 0
        install_handlers()
    _is_deferred = True
    try:
        yield
    finally:
        _is_deferred = False
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
    if _received:
        raise Interrupted(_received)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    is_first = not _received
    _received = number
    if _is_command:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
    if not (_is_deferred and is_first):
        raise Interrupted(number)
