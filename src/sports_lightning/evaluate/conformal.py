"""Prediction sets that contain the right class of a share of images: split conformal prediction (Vovk et al. 2005).

A class is in the set of an image if its nonconformity score is at most a quantile of the scores that the labels of the
validation images have. If new images are exchangeable with those, the label is in the set with a probability of at
least `coverage`, on average over validation splits; for one split of n images the probability itself varies, with a
standard deviation of about sqrt(coverage · (1 - coverage) / n).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.evaluate.intervals import wilson

METHODS = ("lac", "aps", "raps")
LEVELS = (0.9, 0.95, 0.99)  # of coverage that is reported for every run
_DIGITS = 10  # of a nonconformity score, so that two copies of an image have the same
_RANK, _PENALTY = 5, 0.01  # of RAPS: classes that cost nothing, and the cost of each further one (Angelopoulos et al.)


def nonconformity(probabilities: Tensor, method: str) -> Tensor:
    """How little each class conforms to each image: (n, classes) float64, 0 or more.

    - "lac": one minus the probability of the class (Sadinle et al. 2019). The smallest sets on average, some empty.
    - "aps": the probability of all classes that are more probable (Romano et al. 2020, without randomization, and
      without the class itself, so that no set is empty).
    - "raps": the same, and a penalty for every class after the fifth (Angelopoulos et al. 2021).

    Args:
        probabilities: (n, classes).
        method: one of `METHODS`.
    """
    probabilities = probabilities.double()
    if method == "lac":
        return (1 - probabilities).round(decimals=_DIGITS)
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    scores = ordered.cumsum(dim=1) - ordered
    if method == "raps":
        scores = scores + _PENALTY * (torch.arange(scores.shape[1]) + 1 - _RANK).clamp(min=0)
    return torch.empty_like(scores).scatter_(1, order, scores).round(decimals=_DIGITS)


def calibrate_sets(probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The sorted scores (n,) float64 of the labels of n validation images, by method.

    Args:
        probabilities: (n, classes).
        labels: (n,) int64.
    """
    return {
        method: nonconformity(probabilities, method).gather(1, labels[:, None]).flatten().sort().values
        for method in METHODS
    }


def prediction_sets(probabilities: Tensor, calibration: Mapping[str, Tensor], coverage: float, method: str) -> Tensor:
    """The set of each image: (n, classes) bool.

    Args:
        probabilities: (n, classes), computed as those of the validation images were.
        calibration: see `calibrate_sets`.
        coverage: share of images whose label is in their set, between 0 and 1.
        method: one of `METHODS`.

    Raises:
        UserError: fewer validation images than this coverage needs.
    """
    return nonconformity(probabilities, method) <= largest_score(calibration[method], coverage)


def largest_score(scores: Tensor, coverage: float) -> Tensor:
    """The largest nonconformity score of a class in a set, given the sorted scores (n,) of the validation images.

    Raises:
        UserError: fewer validation images than this coverage needs.
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.95 · 20 is a little more than 19 in floating point
    if rank > len(scores):
        needed = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise UserError(
            f"coverage={coverage} needs {needed} validation images, and this checkpoint was calibrated with "
            f"{len(scores)}: a smaller coverage works with fewer"
        )
    return scores[rank - 1]


def set_metrics(sets: Tensor, labels: Tensor) -> dict[str, Any]:
    """`coverage`, its 95 % Wilson interval, `mean_size`, and the shares of sets that are `single` and `empty`.

    Args:
        sets: (n, classes) bool.
        labels: (n,) int64.
    """
    sizes, covered = sets.sum(dim=1), sets.gather(1, labels[:, None])
    return {
        "coverage": float(covered.double().mean()),
        "ci95": {"coverage": wilson(int(covered.sum()), len(labels))},
        "mean_size": float(sizes.double().mean()),
        "single": float((sizes == 1).double().mean()),
        "empty": float((sizes == 0).double().mean()),
    }
