"""Errors that a user can cause, and exceptions that end a run early."""


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
