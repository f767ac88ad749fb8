"""The labels of a video over time: a hidden Markov model over calibrated probabilities.

The states are the classes and "none of these". A frame's emission for a class is its calibrated probability; for "none
of these" it follows from the rejection score, which is uniform for images of known classes (see `models.rejection`).
The most probable path is that of Viterbi (1967). Frames of one shot are not independent, so that their evidence counts
by the time that they stand for and not by their number.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SmoothingSettings:
    """The parameters, chosen on videos made from validation images (docs/log/videos.md).

    Attributes:
        segment_seconds: expected duration of a segment.
        independent_seconds: time after which a frame counts as a new observation.
        none_share: share of time that shows none of the classes, before a frame is seen.
        cut_switches: probability that the label changes at a cut of the camera.
        min_seconds: shorter segments become part of a neighbour.
    """

    segment_seconds: float = 20.0
    independent_seconds: float = 2.0
    none_share: float = 0.05
    cut_switches: float = 0.5
    min_seconds: float = 1.0


def smooth(
    probabilities: np.ndarray,
    scores: np.ndarray | None,
    cuts: np.ndarray,
    spans: np.ndarray,
    settings: SmoothingSettings,
    reject: float | None,
) -> np.ndarray:
    """The label of each frame (n,) int64: a class, or the number of classes for "none of these".

    Args:
        probabilities: (n, classes) float64, calibrated.
        scores: (n,) float64, rejection scores; None: there are none, and no frame is "none of these".
        cuts: (n,) bool, whether the camera cuts between a frame and the one before it.
        spans: (n,) seconds that each frame stands for.
        settings: the parameters.
        reject: rejection score at which an image is as probable under "none of these" as under the known classes;
            None: no frame is.
    """
    weights = np.clip(spans / settings.independent_seconds, 1e-6, 1.0)
    emissions = _emissions(probabilities, scores, settings, reject) * weights[:, None]
    return _viterbi(emissions, cuts, spans, settings)


def _emissions(
    probabilities: np.ndarray, scores: np.ndarray | None, settings: SmoothingSettings, reject: float | None
) -> np.ndarray:
    """Log joint probabilities (n, classes + 1) of each state and frame, up to a constant per frame."""
    none = np.full((len(probabilities), 1), -np.inf)
    if scores is not None and reject is not None:
        a = _shape(reject)
        floor = np.maximum(scores, 1e-4)[:, None]
        none = math.log(a) + (a - 1) * np.log(floor) + math.log(settings.none_share)
    classes = np.log(np.maximum(probabilities, 1e-12)) + math.log(1 - settings.none_share)
    return np.concatenate([classes, none], axis=1)


def _shape(reject: float) -> float:
    """The a < 1 of the density a s^(a - 1) of scores of unknown images that is 1, as of known ones, at s = `reject`.

    There is one for `reject` < 1/e.
    """
    low, high = 1e-6, 1 - 1e-6
    for _ in range(80):
        a = (low + high) / 2
        low, high = (a, high) if math.log(a) + (a - 1) * math.log(reject) < 0 else (low, a)
    return (low + high) / 2


def _viterbi(emissions: np.ndarray, cuts: np.ndarray, spans: np.ndarray, settings: SmoothingSettings) -> np.ndarray:
    """The most probable states (n,). A switch goes to every other state with the same probability."""
    count, states = emissions.shape
    gaps = (spans + np.roll(spans, 1)) / 2  # between a frame and the one before it
    usual = np.minimum(1 - np.exp(-gaps / settings.segment_seconds), settings.cut_switches)
    switch = np.where(cuts, settings.cut_switches, usual)
    best = emissions[0]
    came_from = np.zeros((count, states), dtype=np.int64)
    for i in range(1, count):
        stay = best + math.log1p(-switch[i])
        source = int(best.argmax())
        change = best[source] + math.log(switch[i]) - math.log(max(states - 1, 1))
        came_from[i] = np.where(stay >= change, np.arange(states), source)
        best = np.maximum(stay, change) + emissions[i]
    path = [int(best.argmax())]
    for i in range(count - 1, 0, -1):
        path.append(int(came_from[i, path[-1]]))
    return np.array(path[::-1], dtype=np.int64)


def find_cuts(thumbnails: np.ndarray) -> np.ndarray:
    """Whether the camera cuts before each frame (n,) bool: its colors differ far more than those of its neighbours.

    Args:
        thumbnails: (n, side, side, 3) uint8.
    """
    if len(thumbnails) < 2:
        return np.zeros(len(thumbnails), dtype=bool)
    change = np.abs(np.diff(thumbnails.astype(np.float64), axis=0)).mean(axis=(1, 2, 3))
    usual = np.median(change)
    return np.concatenate([[False], (change > 20) & (change > 3 * usual)])
