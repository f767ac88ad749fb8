"""What a user can cause, and the one way for a run to end before its time."""


class UserError(Exception):
    """Something the user can put right: one line with the culprit and the remedy. Commands print it and exit with 1."""


class RunFolderLocked(UserError):
    """A run folder is another process's: hands off."""


class WriteFailed(UserError):
    """A file that could not be written, for want of room mostly; what was there before still is."""


class UnreadableImage(UserError):
    """A file that cannot be decoded as an image."""


class Pruned(Exception):
    """A search has given up this run, which is no failure."""
