"""Predict the videos among the input, each into a folder of its own."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.file_hashes import printable
from sports_lightning.errors import UserError, WriteFailed
from sports_lightning.inference.exported import AnyClassifier
from sports_lightning.inference.parts import file_state
from sports_lightning.inference.predictor import output_settings
from sports_lightning.predict.prediction import SharedWork
from sports_lightning.storage.disk_cache import cache_key
from sports_lightning.storage.files import DAMAGED
from sports_lightning.storage.safe_names import safe_name
from sports_lightning.videos.segments import Timeline
from sports_lightning.videos.video_files import FOLDER, read_timeline, write_index, write_video
from sports_lightning.videos.video_prediction import VideoSettings, predict_video

log = logging.getLogger(__name__)


def predict_videos(
    classifier: AnyClassifier,
    paths: Sequence[str],
    settings: VideoSettings,
    inference: DictConfig,
    folder: Path,
    work: SharedWork,
) -> tuple[list[Timeline], dict[str, str]]:
    """Predict videos and write their files into `videos/NAME/` of the run folder; finished ones are not repeated.

    Args:
        classifier: as `load_classifier` or `open_classifier` returns it.
        paths: the files.
        settings: `video` of `conf/predict.yaml`.
        inference: `conf/inference/*.yaml`.
        folder: the run folder.
        work: the processes that share the videos.

    Returns:
        The timelines, and the reason for each file that could not be read; on every rank.
    """
    ranks = work.ranks
    places = dict(zip(paths, _places(paths, folder / FOLDER), strict=True))
    own = [_timeline(classifier, path, settings, inference, places[path], work) for path in ranks.share(paths)]
    outcomes: dict[str, Timeline | str] = {}
    for of_rank in ranks.gather(dict(zip(ranks.share(paths), own, strict=True))):
        outcomes |= of_rank
    found = [(timeline, places[path]) for path in paths if isinstance(timeline := outcomes[path], Timeline)]
    if ranks.rank == 0 and found:
        write_index(found, folder)
    problems = {path: reason for path in paths if isinstance(reason := outcomes[path], str)}
    return [timeline for timeline, _ in found], problems


def _timeline(
    classifier: AnyClassifier, path: str, settings: VideoSettings, inference: DictConfig, place: Path, work: SharedWork
) -> Timeline | str:
    """The timeline of a video, or why it cannot be read."""
    key = cache_key(
        __name__,
        work.checkpoint,
        classifier.spec.preprocessing,
        vars(settings),
        output_settings(inference),
        [path, *file_state(path)],
    )
    if finished := _finished(place, key):
        return finished
    try:
        return _predict(classifier, path, settings, inference, place, key)
    except WriteFailed:
        raise
    except UserError as error:
        log.warning("%s", error)
        return str(error).removeprefix(printable(path)).removeprefix(":").strip()


def _predict(
    classifier: AnyClassifier, path: str, settings: VideoSettings, inference: DictConfig, place: Path, key: str
) -> Timeline:
    prediction = predict_video(classifier, path, settings, inference)
    write_video(prediction, settings, place, key)
    timeline = prediction.timeline
    shares = ", ".join(f"{label} {share:.0%}" for label, share in list(timeline.shares.items())[:3])
    log.info("%s: %.1f s, %d segments: %s", printable(path), timeline.seconds, len(timeline.segments), shares)
    return timeline


def _finished(place: Path, key: str) -> Timeline | None:
    with suppress(*DAMAGED):
        timeline, written_key = read_timeline(place)
        return timeline if written_key == key else None
    return None


def _places(paths: Sequence[str], folder: Path) -> list[Path]:
    """A folder of its own for each video, named like it."""
    taken: set[str] = set()
    places = []
    for path in paths:
        name = safe_name(os.path.splitext(os.path.basename(path))[0])
        number, free = 1, name
        while free.casefold() in taken:
            number += 1
            free = f"{name} ({number})"
        taken.add(free.casefold())
        places.append(folder / free)
    return places
