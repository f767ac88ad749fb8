"""The frames of a video at given times, decoded by FFmpeg (PyAV), without decoding what is not needed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sports_lightning.data.file_hashes import printable
from sports_lightning.errors import UserError
from sports_lightning.videos.packets import decoded_frames
from sports_lightning.videos.pyav import Source, av_errors, open_video
from sports_lightning.videos.sampling import Sampling

EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".3gp", ".wmv", ".flv", ".ogv"),
)
_HD = 720  # rows from which colors without a label are those of BT.709, as players assume
_UNSPECIFIED = 2  # the color space of a frame without a label


class Frame(NamedTuple):
    """A frame that is shown at a sampled time.

    Attributes:
        seconds: the sampled time from the start of the video.
        image: uint8 (3, height, width), RGB, upright, with square pixels.
    """

    seconds: float
    image: Tensor


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video says.

    Attributes:
        seconds: its duration; 0 if that is not known.
        width, height: of its frames in pixels, before they are turned.
        rate: frames per second, on average; 0 if that is not known.
    """

    seconds: float
    width: int
    height: int
    rate: float


def is_video_name(name: str) -> bool:
    """Whether the extension of a file name is one of a video format."""
    return name.lower().endswith(EXTENSIONS)


def read_info(path: Source) -> VideoInfo:
    """Read the header of a video: a path, or a binary file with a name.

    Raises:
        UserError: not a video, encrypted, or without frames.
    """
    with _opened(path) as (container, stream):
        seconds = float(container.duration / 1e6) if container.duration else 0.0
        if not seconds and stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        return VideoInfo(seconds, stream.width, stream.height, float(stream.average_rate or 0))


def read_frames(path: Source, sampling: Sampling, least: int) -> Iterator[Frame]:
    """The frames that are shown at sampled times, in seconds after the start of the file, as players count them.

    Only these frames are decoded, and those that they are predicted from. A video whose end is damaged ends there.

    Args:
        path: the file, or a binary file with a name.
        sampling: the times.
        least: number of pixels that the shorter side must keep; larger frames are scaled by a whole number.

    Raises:
        UserError: not a video, encrypted, or no frame can be decoded.
    """
    count = 0
    with _opened(path) as (container, stream):
        for seconds, frame in _shown(decoded_frames(container, stream, sampling), sampling):
            with suppress(*av_errors()):  # a frame in a form that FFmpeg cannot convert
                image = _to_rgb(frame, least)
                count += 1
                yield Frame(seconds, image)
    if not count:
        raise _no_frame(path)


def read_all_frames(path: str, least: int) -> Iterator[tuple[float, float, np.ndarray]]:
    """All frames that can be decoded, in one size: (start and end in seconds, uint8 (h, w, 3), RGB).

    Args:
        path: the file.
        least: number of pixels that the shorter side must keep.

    Raises:
        UserError: not a video, encrypted, or no frame can be decoded.
    """
    size: tuple[int, int] | None = None  # that of the first frame, also where a later one differs
    with _opened(path) as (container, stream):
        for seconds, frame in decoded_frames(container, stream, None):
            with suppress(*av_errors()):
                if size is None:
                    scale = _scale(frame, least)
                    size = max(1, frame.width // scale), max(1, frame.height // scale)
                pixels = frame.reformat(*size, "rgb24").to_ndarray()
                yield seconds, seconds + _duration(frame), pixels
    if size is None:
        raise _no_frame(path)


def _no_frame(path: Source) -> UserError:
    return UserError(f"{_name(path)}: no frame can be decoded")


def _name(path: Source) -> str:
    return printable(path if isinstance(path, str) else path.name)


def _duration(frame: Any) -> float:
    """In seconds; 0 where it is not known."""
    return float((frame.duration or 0) * (frame.time_base or 0))


def _scale(frame: Any, least: int) -> int:
    """The whole number by which a frame is scaled down, so that the shorter side keeps `least` pixels."""
    return max(1, min(frame.width, frame.height) // least)


@contextmanager
def _opened(path: Source) -> Iterator[tuple[Any, Any]]:
    try:
        container = open_video(path)
    except av_errors() as error:
        raise UserError(f"{_name(path)} cannot be read as a video: {_reason(error)}") from error
    with container:
        streams = [each for each in container.streams.video if each.codec_context is not None]
        if not streams:
            raise UserError(f"{_name(path)} has no video in it")
        stream = streams[0]
        stream.thread_type = "AUTO"
        if not stream.width:
            raise UserError(f"{_name(path)} cannot be read as a video: it has no frames of any size")
        yield container, stream


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _shown(frames: Iterator[tuple[float, Any]], sampling: Sampling) -> Iterator[tuple[float, Any]]:
    """(sampled time, frame that is shown then): the last one that starts by that time, or the first one of all."""
    shown: Any = None
    number = 0
    end = 0.0
    for seconds, frame in frames:
        shown = frame if shown is None else shown
        while sampling.at(number) < seconds - 1e-6:
            yield sampling.at(number), shown
            number += 1
        shown = frame
        end = seconds + _duration(frame)
    while shown is not None and (number == 0 or sampling.at(number) < max(end, 1e-6) - 1e-6):
        yield sampling.at(number), shown
        number += 1


def _to_rgb(frame: Any, least: int) -> Tensor:
    """uint8 (3, height, width), upright, with square pixels, scaled down by a whole number."""
    from av.video.frame import VideoFrame
    from av.video.reformatter import Colorspace, Interpolation

    scale = _scale(frame, least)
    ratio = float(getattr(frame, "sample_aspect_ratio", None) or 1)
    height = max(1, frame.height // scale)
    width = max(1, round(frame.width * ratio / scale))
    source = None
    if frame.colorspace in (0, _UNSPECIFIED) and not frame.format.is_rgb:
        source = Colorspace.ITU709 if frame.height >= _HD else Colorspace.ITU601
    turns = round((frame.rotation or 0) / 90) % 4
    if frame.interlaced_frame:  # of the lines of two moments, those of one
        lines = frame.reformat(format="rgb24", src_colorspace=source).to_ndarray()[::2]
        frame, source = VideoFrame.from_ndarray(np.ascontiguousarray(lines), "rgb24"), None
    changed = frame.reformat(width, height, "rgb24", src_colorspace=source, interpolation=Interpolation.AREA)
    pixels = changed.to_ndarray()
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns))).permute(2, 0, 1)
