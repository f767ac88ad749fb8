"""Videos that are sent to the server: the timeline that `predict` finds, by the network that answers images."""

import importlib.util
import io
import time
from collections import deque
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any

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


def answer_video(upload: Upload, classifier: Classifier, network: Network, deadline: float) -> VideoAnswer:
    """Find the segments of a video, which is read from memory.

    Args:
        upload: the video.
        classifier: with its preprocessing and rejection score.
        network: runs the frames.
        deadline: when the answer is too late, by `time.monotonic()`.

    Raises:
        Refusal: 422 of a file that is no video, 501 without PyAV, 504 if the time is over.
    """
    if importlib.util.find_spec("av") is None:
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "videos need PyAV on the server: pip install -e '.[video]'")
    try:
        timeline, seen = _watch(upload, classifier, network, deadline)
    except UserError as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
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


def _watch(upload: Upload, classifier: Classifier, network: Network, deadline: float) -> tuple[Timeline, Seen]:
    settings, seen = VideoSettings(), Seen()
    sampling = choose_sampling(upload.name, settings)
    file: Any = io.BytesIO(upload.content)
    file.name = upload.name
    info = read_info(file)
    transform = classifier.preprocessing.transform()
    waiting: deque[Future[Tensor]] = deque()
    outputs: list[Tensor] = []
    try:
        for frame in read_frames(file, sampling, classifier.preprocessing.least_side):
            if time.monotonic() > deadline:  # decoding may take longer than the network
                raise _late()
            seen.add(frame)
            waiting.append(network.submit(transform(frame.image)))
            if len(waiting) >= _WAITING:
                outputs.append(_result(waiting.popleft(), deadline))
        while waiting:
            outputs.append(_result(waiting.popleft(), deadline))
    finally:
        for future in waiting:
            future.cancel()
    return find_timeline(classifier, upload.name, info, sampling, seen, torch.stack(outputs), settings), seen


def _result(future: "Future[Tensor]", deadline: float) -> Tensor:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        future.cancel()
        raise _late() from None


def _late() -> Refusal:
    reason = "not answered within limits.seconds: the video is too long for this server; use predict"
    return Refusal(HTTPStatus.GATEWAY_TIMEOUT, reason)
