"""PyAV, which brings FFmpeg: an extra."""

import os
from typing import Any, BinaryIO, TypeAlias

from sports_lightning.errors import import_extra

# FFmpeg's names of the containers of videos, of raw streams and of a series of images in one file. A playlist is none
# of them: it could name any file of this machine.
_CONTAINERS = "mov,matroska,avi,gif,mpeg,mpegvideo,mpegts,asf,flv,ogg,dv,mxf,ivf,rm,h264,hevc,m4v,mjpeg,apng,webp"

Source: TypeAlias = str | BinaryIO


def require_av() -> Any:
    """The package PyAV.

    Raises:
        UserError: it is not installed.
    """
    return import_extra("av", "videos need PyAV", "video")


def open_video(source: Source) -> Any:
    """An `av.container.InputContainer` that reads a video: a path, or a binary file with a name, from its start.

    Raises:
        UserError: PyAV is not installed.
        OSError, ValueError, av.error.FFmpegError: it is no video.
    """
    av = require_av()
    if isinstance(source, str):
        source = os.path.abspath(source)  # of 12:30.mp4, FFmpeg would take the first part for a protocol
    else:
        source.seek(0)
    return av.open(source, options={"format_whitelist": _CONTAINERS}, metadata_errors="ignore")


def av_errors() -> tuple[type[Exception], ...]:
    """What PyAV raises for damaged files: FFmpeg's errors, some of which are no others."""
    return OSError, ValueError, require_av().error.FFmpegError
