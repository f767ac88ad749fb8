"""Which packets of a video are decoded: those of the frames in question, and those that these are predicted from."""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

from sports_lightning.data.file_hashes import printable
from sports_lightning.errors import UserError
from sports_lightning.videos.pyav import av_errors
from sports_lightning.videos.sampling import Sampling

log = logging.getLogger(__name__)

_MOST_PACKETS = 600  # that are held back until it is known whether they are needed
_BACK = 0.5  # seconds by which time stamps may go back within a recording


def decoded_frames(container: Any, stream: Any, sampling: Sampling | None) -> Iterator[tuple[float, Any]]:
    """(seconds, frame) of the frames that may be shown at a sampled time, in order; without sampling, of all frames.

    Time stamps that go back, as where two recordings were joined, go on from there.
    """
    start: float | None = None if container.start_time is None else container.start_time / 1e6
    has_decoded, end = False, 0.0
    for group, is_whole in _groups(container, stream):
        times = [float(stamp * stream.time_base) for stamp in _stamps(group)]
        if start is None:
            start = min(times, default=0.0)
        is_jump = bool(times) and min(times) - start < end - _BACK
        is_needed = not (times and is_whole and sampling) or _holds_sample(
            min(times) - start, max(times) - start, group, sampling
        )
        if has_decoded and (is_jump or not is_needed):  # the decoder holds frames back, and begins anew at a key frame
            yield from _timed(_flushed(stream), stream, start)
            has_decoded = False
        if is_jump:
            start = min(times) - end
            log.warning("%s: time stamps go back at %.1f s: later times are counted on", printable(container.name), end)
        end = max([end, *(time - start for time in times)])
        if not (is_needed or is_jump):
            continue
        if any(packet.has_sidedata("encryption_info") for packet in group):
            raise UserError(f"{printable(container.name)} is encrypted: it can only be played with its key")
        wanted = _wanted(group, start, sampling)
        for before, packet in pairwise([None, *group]):
            # The packet after a wanted one may be the second field of its frame.
            is_wanted = wanted is None or packet.pts in wanted or (before is not None and before.pts in wanted)
            stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            with suppress(*av_errors()):  # a damaged packet; the next key frame may be intact
                frames = packet.decode()
                has_decoded = True
                yield from _timed(frames, stream, start)


def _stamps(group: list[Any]) -> list[int]:
    """The time stamps of the packets whose frames are shown; others may be before the beginning of a trimmed video."""
    return [packet.pts for packet in group if packet.pts is not None and not packet.is_discard]


def _wanted(group: list[Any], start: float, sampling: Sampling | None) -> set[int] | None:
    """The time stamps of the packets whose frames are shown at a sampled time; None: of all, as they are not known.

    The other frames are decoded only if frames refer to them.
    """
    stamps = sorted(set(_stamps(group)))
    if sampling is None or any(packet.pts is None for packet in group if packet.size):
        return None
    times = [float(stamp * group[0].time_base) - start for stamp in stamps]
    return {
        stamp
        for stamp, (shown, until) in zip(stamps, pairwise([*times, math.inf]), strict=True)
        if sampling.first_from(max(shown - 1e-6, 0.0)) <= until
    }


def _flushed(stream: Any) -> list[Any]:
    """The frames that the decoder has held back."""
    frames = []
    with suppress(*av_errors()):
        frames = stream.codec_context.decode(None)
    stream.codec_context.flush_buffers()
    return frames


def _timed(frames: Iterable[Any], stream: Any, start: float) -> Iterator[tuple[float, Any]]:
    for frame in frames:
        stamp = frame.dts if frame.pts is None else frame.pts  # AVI stores only the order of decoding
        if stamp is not None:
            yield float(stamp * stream.time_base) - start, frame


def _groups(container: Any, stream: Any) -> Iterator[tuple[list[Any], bool]]:
    """The packets from each key frame to the next, and whether they are all of these; the last ones flush the decoder.

    Many packets without a key frame are several groups, none of which can be left out.
    """
    group: list[Any] = []
    has_start = False
    with suppress(*av_errors()):  # a broken end
        for packet in container.demux(stream):
            if packet.is_keyframe and group:
                yield group, has_start
                group, has_start = [], True
            elif len(group) >= _MOST_PACKETS:
                yield group, False
                group, has_start = [], False
            elif not group:
                has_start = bool(packet.is_keyframe)
            group.append(packet)
    yield group, has_start


def _holds_sample(first: float, last: float, group: list[Any], sampling: Sampling) -> bool:
    """Whether a group of packets shows a frame at a sampled time. The last frame is shown for its duration."""
    durations = [float(packet.duration * packet.time_base) for packet in group if packet.duration]
    until = last + (max(durations) if durations else sampling.longest_gap)
    is_end = any(packet.pts is None for packet in group)
    return is_end or sampling.first_from(max(first, 0.0)) <= until + 1e-9
