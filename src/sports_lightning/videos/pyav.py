"""PyAV, which brings FFmpeg: an extra."""

from typing import Any

from sports_lightning.errors import import_extra


def require_av() -> Any:
    """The package PyAV.

    Raises:
        UserError: it is not installed.
    """
    return import_extra("av", "videos need PyAV", "video")


def av_errors() -> tuple[type[Exception], ...]:
    """What PyAV raises for damaged files: FFmpeg's errors, some of which are no others."""
    return OSError, ValueError, require_av().error.FFmpegError
