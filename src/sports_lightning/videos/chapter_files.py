"""Segments in the forms of players and editors: WebVTT, FFmpeg metadata, EDL, and a copy of a video with chapters."""

import os
from fractions import Fraction
from pathlib import Path

from sports_lightning.data.file_hashes import printable
from sports_lightning.errors import UserError
from sports_lightning.storage.files import write_text
from sports_lightning.videos.pyav import open_video, require_av
from sports_lightning.videos.segments import Timeline

_WITH_CHAPTERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")


def write_vtt(timeline: Timeline, path: Path) -> None:
    """Write `chapters.vtt`: WebVTT chapters (W3C), as the element `track` of HTML takes them."""
    cues = [
        f"{clock(segment.start)} --> {clock(segment.end)}\n{_vtt_text(segment.label)}\n"
        for segment in timeline.segments
    ]
    write_text(path, "\n".join(["WEBVTT\n", *cues]))


def write_ffmetadata(timeline: Timeline, path: Path) -> None:
    """Write `chapters.ffmetadata`, for `ffmpeg -i VIDEO -i chapters.ffmetadata -map_metadata 1 -codec copy OUT`."""
    lines = [";FFMETADATA1"]
    for segment in timeline.segments:
        title = "".join(f"\\{c}" if c in "=;#\\\n" else c for c in segment.label)
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={_milliseconds(segment.start)}"]
        lines += [f"END={_milliseconds(segment.end)}", f"title={title}"]
    write_text(path, "\n".join(lines) + "\n")


def write_edl(timeline: Timeline, rate: float, path: Path) -> None:
    """Write `segments.edl`, a CMX 3600 edit decision list with a cut per segment and its label as a comment.

    Args:
        timeline: the segments.
        rate: frames per second of the video; its time code is not dropped.
        path: of the file.
    """
    rate = rate or 25.0
    name = printable(os.path.basename(timeline.path))
    lines = [f"TITLE: {name}", "FCM: NON-DROP FRAME", ""]
    for number, segment in enumerate(timeline.segments, 1):
        start, end = time_code(segment.start, rate), time_code(segment.end, rate)
        lines.append(f"{number:03d}  AX       V     C        {start} {end} {start} {end}")
        lines += [f"* FROM CLIP NAME: {name}", f"* COMMENT: {segment.label}", ""]
    write_text(path, "\n".join(lines))


def write_copy(timeline: Timeline, folder: Path) -> None:
    """Write a copy of the video with chapters, its video, audio and subtitle streams untouched, with their metadata.

    Raises:
        UserError: a format that holds no chapters, or a stream that cannot be copied.
    """
    av = require_av()
    source = Path(timeline.path)
    if source.suffix.lower() not in _WITH_CHAPTERS:
        raise UserError(
            f"video.chapters=true: {printable(source.name)} is of a format without chapters; these have them: "
            f"{', '.join(_WITH_CHAPTERS)}"
        )
    target = folder / source.name
    partial = target.with_name(f".{target.stem[:100]}.partial{target.suffix}")
    try:
        with open_video(str(source)) as read, av.open(str(partial), "w") as written:
            streams = {
                stream.index: written.add_stream_from_template(stream)
                for stream in read.streams
                if stream.type in ("video", "audio", "subtitle") and stream.codec_context is not None
            }
            written.metadata.update(read.metadata)
            for index, stream in streams.items():
                stream.metadata.update(read.streams[index].metadata)
                stream.disposition = read.streams[index].disposition
            written.set_chapters(
                [
                    {
                        "id": number,
                        "start": _milliseconds(segment.start),
                        "end": _milliseconds(segment.end),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": segment.label},
                    }
                    for number, segment in enumerate(timeline.segments)
                ]
            )
            for packet in read.demux([read.streams[index] for index in streams]):
                if packet.size:  # not the empty one at the end
                    packet.stream = streams[packet.stream.index]
                    written.mux(packet)
        partial.replace(target)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"video.chapters=true: {printable(source.name)} cannot be copied: {error}") from error


def clock(seconds: float) -> str:
    """Hours, minutes, seconds and milliseconds, as 00:01:02.500."""
    whole = _milliseconds(seconds)
    return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}.{whole % 1000:03d}"


def time_code(seconds: float, rate: float) -> str:
    """Hours, minutes, seconds and frames, as 00:01:02:12, without dropped frames."""
    base = max(1, round(rate))
    frames = round(seconds * rate)
    whole = frames // base
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{frames % base:02d}"


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _vtt_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
