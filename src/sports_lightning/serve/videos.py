"""Videos that are sent to the server: the timeline that `predict` finds, by the network that answers images."""

import importlib.util
import os
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from http import HTTPStatus
from pathlib import Path

import torch
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.models.classifier import Classifier
from sports_lightning.reports.html import jpeg_uri
from sports_lightning.serve.answers import VideoAnswer, VideoSegment
from sports_lightning.serve.network import Network
from sports_lightning.serve.refusal import Refusal
from sports_lightning.serve.uploads import Upload
from sports_lightning.videos.reader import read_frames, read_info
from sports_lightning.videos.segments import Timeline
from sports_lightning.videos.video_prediction import Seen, VideoSettings, choose_sampling, find_timeline

_WAITING = 64  # frames in the queue of the network


def answer_video(upload: Upload, classifier: Classifier, network: Network, seconds: float) -> VideoAnswer:
    """Find the segments of a video. It is kept in a temporary file meanwhile.

    Args:
        upload: the video.
        classifier: with its preprocessing and rejection score.
        network: runs the frames.
        seconds: time for the answer.

    Raises:
        Refusal: 422 of a file that is no video, 501 without PyAV, 504 if the time is over.
    """
    if importlib.util.find_spec("av") is None:
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "videos need PyAV on the server: pip install -e '.[video]'")
    suffix = os.path.splitext(upload.name)[1][:8]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"video{suffix if suffix.isascii() else ''}")
        path.write_bytes(upload.content)
        try:
            timeline, seen = _watch(str(path), classifier, network, time.monotonic() + seconds)
        except UserError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error).replace(str(path), upload.name)) from error
    segments = [
        VideoSegment(
            start=segment.start,
            end=segment.end,
            label=segment.label,
            probability=segment.probability,
            thumbnail=jpeg_uri(seen.thumbnail_at((segment.start + segment.end) / 2)),
        )
        for segment in timeline.segments
    ]
    return VideoAnswer(name=upload.name, seconds=timeline.seconds, segments=segments)


def _watch(path: str, classifier: Classifier, network: Network, deadline: float) -> tuple[Timeline, Seen]:
    settings, seen = VideoSettings(), Seen()
    sampling = choose_sampling(path, settings)
    info = read_info(path)
    transform = classifier.preprocessing.transform()
    waiting: deque[Future[Tensor]] = deque()
    outputs: list[Tensor] = []
    try:
        for frame in read_frames(path, sampling, classifier.preprocessing.least_side):
            seen.add(frame)
            waiting.append(network.submit(transform(frame.image)))
            if len(waiting) >= _WAITING:
                outputs.append(_result(waiting.popleft(), deadline))
        while waiting:
            outputs.append(_result(waiting.popleft(), deadline))
    finally:
        for future in waiting:
            future.cancel()
    return find_timeline(classifier, path, info, sampling, seen, torch.stack(outputs), settings), seen


def _result(future: "Future[Tensor]", deadline: float) -> Tensor:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        future.cancel()
        reason = "not answered within limits.seconds: the video is too long for this server; use predict"
        raise Refusal(HTTPStatus.GATEWAY_TIMEOUT, reason) from None
