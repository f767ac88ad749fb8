"""The standard output of this process: whether it can show progress bars, and that a run outlasts it."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


def shows_progress_bars() -> bool:
    """Whether stdout is a terminal or a notebook; in a file, a bar would only be noise."""
    return (sys.stdout is not None and sys.stdout.isatty()) or "ipykernel" in sys.modules


class CurrentStdout:
    """The stream of the console's log handler: whatever `sys.stdout` is when a line is written.

    While Rich draws a progress bar, it replaces `sys.stdout` so that lines appear above the bar. A handler that kept
    the original stream would write into the bar.
    """

    def write(self, text: str) -> None:
        """Write to `sys.stdout`."""
        sys.stdout.write(text)

    def flush(self) -> None:
        """Flush `sys.stdout`."""
        sys.stdout.flush()


STDOUT = CurrentStdout()


def outlast_output() -> None:
    """Let this process continue without stdout or stderr, whether closed from the start or lost later.

    A reader such as `head` ends, a disk fills up, a terminal closes: the files of a run do not depend on it.
    """
    for descriptor in range(3):  # a file that is opened later must not become the output of a library
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = outlasting(sys.stdout), outlasting(sys.stderr)


def outlasting(stream: TextIO | None) -> TextIO:
    """A stream that writes where `stream` does, and nowhere once that fails; `stream` itself if it is no file."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    raw = _raw(stream)
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO:
        return stream
    with suppress(OSError):
        stream.flush()
    output = _Output(raw.fileno())
    return io.TextIOWrapper(
        output if raw is stream.buffer else io.BufferedWriter(output),  # of python -u
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def lost_output(stream: TextIO) -> OSError | None:
    """Why a stream of `outlasting` is no longer written; None if it is, or if its reader has closed the pipe."""
    stream.flush()
    error = getattr(_raw(stream), "error", None)
    return None if isinstance(error, BrokenPipeError) else error


def _raw(stream: TextIO) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


class _Output(io.FileIO):
    """A file descriptor that becomes the null device once it can't be written, for child processes too."""

    error: OSError | None = None

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError as error:
            self.error = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(content).nbytes
