"""Segments of a video: consecutive frames with one label."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from sports_lightning.evaluate.decisions import NONE_OF_THESE


@dataclass(frozen=True)
class Segment:
    """A part of a video.

    Attributes:
        start, end: in seconds.
        label: a class, or "none of these".
        probability: mean of the calibrated probability of the class over the frames; of "none of these", of the most
            probable class.
        frames: number of sampled frames.
    """

    start: float
    end: float
    label: str
    probability: float
    frames: int

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.end - self.start


@dataclass(frozen=True)
class Timeline:
    """What a video shows.

    Attributes:
        path: its file.
        seconds: its duration.
        every: seconds between sampled frames, or "shot".
        segments: in order, without gaps.
    """

    path: str
    seconds: float
    every: float | str
    segments: list[Segment]

    @property
    def shares(self) -> dict[str, float]:
        """{label: share of the duration}, the largest first."""
        found: dict[str, float] = {}
        for segment in self.segments:
            found[segment.label] = found.get(segment.label, 0.0) + segment.seconds
        whole = sum(found.values()) or 1.0
        return {label: share / whole for label, share in sorted(found.items(), key=lambda item: -item[1])}

    @property
    def longest(self) -> Segment:
        """The longest segment."""
        return max(self.segments, key=lambda segment: segment.seconds)

    def to_dict(self) -> dict[str, Any]:
        """For `segments.json`."""
        segments = [asdict(segment) for segment in self.segments]
        return {"video": self.path, "seconds": self.seconds, "every": self.every, "segments": segments}


def find_segments(
    states: np.ndarray,
    probabilities: np.ndarray,
    classes: list[str],
    edges: np.ndarray,
    spans: np.ndarray,
    least: float,
) -> list[Segment]:
    """Group frames with the same label into segments.

    Args:
        states: (n,) labels of frames; the number of classes stands for "none of these".
        probabilities: (n, classes) float64, calibrated.
        classes: their names.
        edges: (n + 1,) times in seconds between the frames, from the start of the video to its end.
        spans: (n,) seconds that each frame stands for.
        least: shorter segments become part of the neighbour whose label is more probable in them.
    """
    runs = _runs(states)
    evidence = np.log(np.maximum(probabilities, 1e-12))
    while len(runs) > 1:
        shortest = min(range(len(runs)), key=lambda i: spans[runs[i][0] : runs[i][1]].sum())
        start, end, _ = runs[shortest]
        if spans[start:end].sum() >= least - 1e-6:
            break
        near = [i for i in (shortest - 1, shortest + 1) if 0 <= i < len(runs)]
        into = max(near, key=lambda i: _support(evidence[start:end], runs[i][2]))
        label = runs[into][2]
        states = states.copy()
        states[start:end] = label
        runs = _runs(states)
    segments = []
    for start, end, state in runs:
        part = probabilities[start:end]
        is_none = state == len(classes)
        segments.append(
            Segment(
                float(edges[start]),
                float(edges[end]),
                NONE_OF_THESE if is_none else classes[state],
                float(part.max(axis=1).mean() if is_none else part[:, state].mean()),
                end - start,
            )
        )
    return segments


def _support(evidence: np.ndarray, state: int) -> float:
    """How well a label fits frames; "none of these" fits as a class of average probability does."""
    return float(evidence[:, state].sum() if state < evidence.shape[1] else evidence.mean(axis=1).sum())


def _runs(states: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, end, state) of consecutive equal states."""
    edges = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(states)]
    return [(start, end, int(states[start])) for start, end in pairwise(edges)]
