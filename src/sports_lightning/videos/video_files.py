"""The files of a predicted video, in `videos/NAME/`, and those of all videos of a run."""

import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from sports_lightning.errors import UserError
from sports_lightning.evaluate.decisions import NONE_OF_THESE
from sports_lightning.reports.html import jpeg_uri, write_page
from sports_lightning.storage.files import write_bytes, write_csv, write_json
from sports_lightning.videos.chapter_files import clock, write_copy, write_edl, write_ffmetadata, write_vtt
from sports_lightning.videos.segments import Segment, Timeline
from sports_lightning.videos.video_prediction import VideoPrediction, VideoSettings

log = logging.getLogger(__name__)

FOLDER = "videos"
_COLUMNS = 6  # images per row of the contact sheet
_SHEET = 48  # images on it
_SHOWN = 500  # segments with an image on the page


def write_video(prediction: VideoPrediction, settings: VideoSettings, folder: Path, key: str = "") -> None:
    """Write the files of a video; it is finished with the last one, `segments.json`.

    Args:
        prediction: of the video.
        settings: whether a copy with chapters is written.
        folder: `videos/NAME/` of the run folder.
        key: fingerprint of what the prediction depends on, kept in `segments.json`.
    """
    timeline = prediction.timeline
    folder.mkdir(parents=True, exist_ok=True)
    header = ["start", "end", "label", "probability"]
    rows = [[segment.start, segment.end, segment.label, segment.probability] for segment in timeline.segments]
    write_csv(folder / "segments.csv", header, rows)
    write_vtt(timeline, folder / "chapters.vtt")
    write_ffmetadata(timeline, folder / "chapters.ffmetadata")
    write_edl(timeline, prediction.rate, folder / "segments.edl")
    if settings.chapters:
        try:
            write_copy(timeline, folder)
        except UserError as error:
            log.warning("%s", error)
    write_bytes(folder / "contact_sheet.jpg", _contact_sheet(prediction))
    write_page(folder / "index.html", "video.html", **_page_values(prediction, folder))
    write_json(folder / "segments.json", {**timeline.to_dict(), "key": key})


def read_timeline(folder: Path) -> tuple[Timeline, str]:
    """The timeline of a folder that `write_video` has written, and its key.

    Raises:
        OSError, ValueError, LookupError, TypeError: there is none, or it is damaged.
    """
    values = json.loads((folder / "segments.json").read_text(encoding="utf-8"))
    segments = [Segment(**each) for each in values["segments"]]
    return Timeline(values["video"], values["seconds"], values["every"], segments), values["key"]


def write_index(timelines: Sequence[tuple[Timeline, Path]], folder: Path) -> None:
    """Write `videos.csv` (a row per segment of all videos) and `videos.html` into a run folder.

    Args:
        timelines: each video and the folder of its files.
        folder: the run folder.
    """
    rows = [
        [timeline.path, segment.start, segment.end, segment.label, segment.probability]
        for timeline, _ in timelines
        for segment in timeline.segments
    ]
    write_csv(folder / "videos.csv", ["path", "start", "end", "label", "probability"], rows)
    colors = _colors([timeline for timeline, _ in timelines])
    videos = [
        {
            "name": os.path.basename(timeline.path),
            "page": quote(os.path.relpath(place / "index.html", folder)),
            "seconds": clock(timeline.seconds),
            "shares": list(timeline.shares.items()),
            "segments": _bars(timeline, colors),
        }
        for timeline, place in timelines
    ]
    write_page(folder / "videos.html", "videos.html", videos=videos)


def _page_values(prediction: VideoPrediction, folder: Path) -> dict[str, Any]:
    timeline = prediction.timeline
    colors = _colors([timeline])
    return {
        "name": os.path.basename(timeline.path),
        "source": quote(os.path.relpath(os.path.abspath(timeline.path), folder.absolute())),
        "seconds": timeline.seconds,
        "duration": clock(timeline.seconds),
        "every": timeline.every,
        "shares": [(label, share, colors[label]) for label, share in timeline.shares.items()],
        "bars": _bars(timeline, colors),
        "segments": [
            {
                "start": segment.start,
                "clock": f"{clock(segment.start)[:-4]} – {clock(segment.end)[:-4]}",
                "end": segment.end,
                "label": segment.label,
                "probability": segment.probability,
                "color": colors[segment.label],
                "uri": jpeg_uri(prediction.seen.thumbnail_at((segment.start + segment.end) / 2)) if i < _SHOWN else "",
            }
            for i, segment in enumerate(timeline.segments)
        ],
    }


def _colors(timelines: Sequence[Timeline]) -> dict[str, str]:
    """{label: CSS color}; the hues of labels that follow each other differ clearly."""
    labels = dict.fromkeys(segment.label for timeline in timelines for segment in timeline.segments)
    known = [label for label in labels if label != NONE_OF_THESE]
    colors = {label: f"hsl({(i * 137 + 215) % 360} 60% 48%)" for i, label in enumerate(known)}
    return {**colors, NONE_OF_THESE: "var(--line)"}


def _bars(timeline: Timeline, colors: dict[str, str]) -> list[dict[str, Any]]:
    whole = timeline.seconds or 1.0
    return [
        {
            "width": 100 * segment.seconds / whole,
            "label": segment.label,
            "start": segment.start,
            "clock": clock(segment.start)[:-4],
            "color": colors[segment.label],
        }
        for segment in timeline.segments
    ]


def _contact_sheet(prediction: VideoPrediction) -> bytes:
    """A JPEG with a thumbnail per segment, or of evenly spaced ones where there are many."""
    segments = prediction.timeline.segments
    step = -(-len(segments) // _SHEET)
    chosen = segments[::step]
    images = [
        Image.open(io.BytesIO(prediction.seen.thumbnail_at((segment.start + segment.end) / 2))) for segment in chosen
    ]
    width, height = max(image.width for image in images), max(image.height for image in images)
    columns = min(_COLUMNS, len(images))
    sheet = Image.new("RGB", (columns * (width + 4), -(-len(images) // columns) * (height + 4)), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + 4) + 2, i // columns * (height + 4) + 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
