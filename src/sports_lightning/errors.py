"""Errors that a user can cause, and exceptions that end a run early."""

from importlib import import_module
from typing import Any


class UserError(Exception):
    """An error that the user can correct: one line with culprit and remedy. Commands print it and exit with 1."""


class RunFolderLocked(UserError):
    """The run folder is locked by another process."""


class WriteFailed(UserError):
    """A file could not be written, usually because the disk is full. Its previous content is still there."""


class UnreadableImage(UserError):
    """A file that cannot be decoded as an image."""


class Pruned(Exception):
    """A hyper-parameter search has pruned this run, which is not a failure."""


class ThroughHydra(BaseException):
    """Carries an error out of a function that Hydra calls: Hydra prints, or swallows, an Exception.

    Args:
        error: the error.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def import_extra(package: str, need: str, extra: str) -> Any:
    """Import a package that only an extra of this package installs.

    Args:
        package: name of the package or of a module in it.
        need: the start of the error, such as "videos need PyAV".
        extra: name of the extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{need}: pip install -e '.[{extra}]'") from error
