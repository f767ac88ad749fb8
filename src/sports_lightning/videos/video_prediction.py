"""What a video shows and when: its frames through the classifier, smoothed over time."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from sports_lightning.evaluate.decisions import rejection_scores
from sports_lightning.inference.exported import AnyClassifier, ExportedModel
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.predictor import pad_batch, run_stream
from sports_lightning.models.classifier import Classifier
from sports_lightning.runs.console import shows_progress_bars
from sports_lightning.storage.parallel import in_background
from sports_lightning.videos.reader import Frame, VideoInfo, read_frames, read_info
from sports_lightning.videos.sampling import PerShot, Regular, Sampling, edges_between
from sports_lightning.videos.segments import Timeline, find_segments
from sports_lightning.videos.shots import find_shots
from sports_lightning.videos.smoothing import SmoothingSettings, find_cuts, smooth

_SIDE = 160  # pixels of a thumbnail
_MOST_THUMBNAILS = 2000  # of a video; of a longer one, every second is kept, and so on
_CUT_SIDE = 8  # pixels of the images that cuts are found by


@dataclass(frozen=True)
class VideoSettings:
    """`video` of `conf/predict.yaml`.

    Attributes:
        every: seconds between two frames, or "shot": frames of each shot (see `PerShot`).
        min_segment: shorter segments become part of a neighbour.
        reject: rejection score at which a frame is as probable to show none of the classes as one of them; None: every
            segment has a class.
        chapters: whether a copy of the video with chapters is written.
    """

    every: float | Literal["shot"] = 0.5
    min_segment: float = 1.0
    reject: float | None = 0.05
    chapters: bool = False


@dataclass
class Seen:
    """What is kept of the frames of a video.

    Attributes:
        seconds: the sampled time of each frame.
        small: (8, 8, 3) uint8 of each.
        thumbnails: {number of a frame: JPEG}.
    """

    seconds: list[float] = field(default_factory=list)
    small: list[np.ndarray] = field(default_factory=list)
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    _step: int = 1

    def add(self, frame: Frame) -> None:
        """Keep what is needed of the next frame."""
        number = len(self.seconds)
        self.seconds.append(frame.seconds)
        self.small.append(_small(frame.image))
        if number % self._step == 0:
            self.thumbnails[number] = _thumbnail(frame.image)
        if len(self.thumbnails) > _MOST_THUMBNAILS:
            self._step *= 2
            self.thumbnails = {n: jpeg for n, jpeg in self.thumbnails.items() if n % self._step == 0}

    def thumbnail_at(self, seconds: float) -> bytes:
        """The thumbnail that is nearest to a time."""
        return self.thumbnails[min(self.thumbnails, key=lambda number: abs(self.seconds[number] - seconds))]


@dataclass(frozen=True)
class VideoPrediction:
    """A video and what was seen in it.

    Attributes:
        timeline: its segments.
        logits: (n, classes) float32 of the frames.
        seen: the frames.
        rate: frames per second of the video.
    """

    timeline: Timeline
    logits: Tensor
    seen: Seen
    rate: float


def predict_video(
    classifier: AnyClassifier,
    path: str,
    settings: VideoSettings,
    inference: DictConfig,
    smoothing: SmoothingSettings | None = None,
) -> VideoPrediction:
    """Predict the segments of a video. A bar shows how much of it has been read.

    Args:
        classifier: as `load_classifier` or `open_classifier` returns it.
        path: the file.
        settings: how the video is sampled.
        inference: `conf/inference/*.yaml`.
        smoothing: the parameters of the model over time.

    Raises:
        UserError: not a video, or no frame of it can be decoded.
    """
    info = read_info(path)
    sampling = choose_sampling(path, settings)
    expected = sampling.count(info.seconds)

    def look(batches: DictConfig) -> tuple[Seen, Tensor]:
        seen = Seen()
        frames = _watched(read_frames(path, sampling, classifier.preprocessing.least_side), seen, expected, path)
        return seen, frame_logits(classifier, frames, batches, expected)

    (seen, logits), _ = halve_batch_on_out_of_memory(look, inference)
    return VideoPrediction(
        find_timeline(classifier, path, info, sampling, seen, logits, settings, smoothing), logits, seen, info.rate
    )


def choose_sampling(path: str, settings: VideoSettings) -> Sampling:
    """When a video is looked at.

    Raises:
        UserError: shots are wanted, and PySceneDetect is not installed or the video cannot be decoded.
    """
    return find_shots(path) if settings.every == "shot" else Regular(settings.every)


def find_timeline(
    classifier: AnyClassifier,
    path: str,
    info: VideoInfo,
    sampling: Sampling,
    seen: Seen,
    logits: Tensor,
    settings: VideoSettings,
    smoothing: SmoothingSettings | None = None,
) -> Timeline:
    """The segments of a video whose frames have been run.

    Args:
        classifier: whose logits they are.
        path, info: the video.
        sampling: the times at which it was looked at.
        seen: its frames.
        logits: (n, classes) float32 of the frames.
        settings, smoothing: as for `predict_video`.
    """
    seconds = _duration(info.seconds, seen.seconds[-1], sampling)
    edges = edges_between(seen.seconds, seconds, sampling.starts)
    spans = sampling.spans(edges)
    probabilities = logits.double().softmax(dim=1).numpy()
    scores = rejection_scores(classifier.rejection, logits).numpy() if classifier.rejection else None
    cuts = np.isin(edges[:-1], sampling.starts) if sampling.starts else find_cuts(np.stack(seen.small))
    states = smooth(probabilities, scores, cuts, spans, smoothing or SmoothingSettings(), settings.reject)
    segments = find_segments(states, probabilities, list(classifier.spec.classes), edges, spans, settings.min_segment)
    return Timeline(path, seconds, settings.every, segments)


def _duration(stated: float, last: float, sampling: Sampling) -> float:
    """The duration of a video in seconds, whose header may be wrong and whose end may be broken."""
    if isinstance(sampling, PerShot):
        return sampling.seconds
    return stated if last < stated <= last + 2 * sampling.every else last + sampling.every


def frame_logits(classifier: AnyClassifier, frames: Iterator[Frame], inference: DictConfig, expected: int) -> Tensor:
    """Logits (n, classes) float32 of frames, which a thread decodes and preprocesses meanwhile.

    Args:
        classifier: as for `predict_video`.
        frames: the frames.
        inference: `conf/inference/*.yaml`.
        expected: about how many frames there are.
    """
    if isinstance(classifier, ExportedModel):
        transform = classifier.transform
        images = in_background((transform(frame.image) for frame in frames), 2 * inference.batch_size)
        return classifier.logits_of(images, inference)
    resize = classifier.preprocessing.transform()
    images = in_background((resize(frame.image) for frame in frames), 2 * inference.batch_size)
    batches = _Batches(images, inference.batch_size, expected)
    outputs: list[Tensor] = []
    run_stream(Classifier.forward, classifier, batches, inference, outputs.append)
    return torch.cat([output[:count] for output, count in zip(outputs, batches.counts, strict=True)])


class _Batches:
    """Full batches of images, the last one padded, with about the length that they will have (see `run_stream`)."""

    def __init__(self, images: Iterator[Tensor], batch_size: int, expected: int) -> None:
        self.images, self.batch_size, self.expected = images, batch_size, expected
        self.counts: list[int] = []

    def __len__(self) -> int:
        return 2 * (-(-self.expected // self.batch_size)) + 2  # at most

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        batch: list[Tensor] = []
        for image in self.images:
            batch.append(image)
            if len(batch) == self.batch_size:
                yield self._full(batch)
                batch = []
        if batch:
            yield self._full(batch)

    def _full(self, batch: list[Tensor]) -> Sequence[Tensor]:
        self.counts.append(len(batch))
        images = torch.stack([image.permute(1, 2, 0) for image in batch]).permute(0, 3, 1, 2)  # channels-last
        return (pad_batch(images, self.batch_size),)


def _watched(frames: Iterator[Frame], seen: Seen, expected: int, path: str) -> Iterator[Frame]:
    bar: Any = tqdm(
        total=expected,
        desc=path[-40:],
        unit="frame",
        delay=2,
        leave=False,
        disable=None if shows_progress_bars() else True,
    )
    with bar:
        for frame in frames:
            seen.add(frame)
            bar.update()
            yield frame


def _small(image: Tensor) -> np.ndarray:
    pixels = adaptive_avg_pool2d(image[None, :, ::4, ::4].float(), _CUT_SIDE)[0]
    return pixels.round().to(torch.uint8).permute(1, 2, 0).numpy()


def _thumbnail(image: Tensor) -> bytes:
    small = Image.fromarray(image.permute(1, 2, 0).numpy())
    small.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)
    return buffer.getvalue()
