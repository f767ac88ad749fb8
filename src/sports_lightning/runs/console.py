"""The standard output of this process: whether it can show progress bars, and log lines that do not break them."""

import sys


def shows_progress_bars() -> bool:
    """Whether stdout is a terminal or a notebook; in a file, a bar would only be noise."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


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
