"""What is answered for an image besides the probabilities: its rejection score, "none of these", its prediction set.

Both are calibrated on the validation images at the end of training. These have also chosen the checkpoint, so that the
shares that hold for new images are slightly worse than the wanted ones; they are measured on the test split.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.evaluate.conformal import (
    LEVELS,
    METHODS,
    calibrate_sets,
    largest_score,
    prediction_sets,
    set_metrics,
)
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.intervals import wilson
from sports_lightning.inference.exported import AnyClassifier
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.rejection import RejectionScore

_REJECTED = (0.01, 0.05, 0.1)  # shares of known images that are reported for every run
NONE_OF_THESE = "none of these"


@dataclass(frozen=True)
class DecisionSettings:
    """How answers are decided; the keys of this name in `conf/predict.yaml`.

    Attributes:
        reject: images with a lower rejection score are predicted as `NONE_OF_THESE`; None: no image is.
        coverage: share of known images whose prediction set contains their class; None: no sets.
        conformal: "lac", "aps" or "raps" (see `nonconformity`).
    """

    reject: float | None = None
    coverage: float | None = None
    conformal: str = "lac"

    def check(self, classifier: AnyClassifier) -> None:
        """Check that `classifier` can decide so.

        Raises:
            UserError: a checkpoint without rejection score, or one of too few validation images; a class of that name.
            ValueError: a share that is not between 0 and 1, or an unknown method.
        """
        for name, share in (("reject", self.reject), ("coverage", self.coverage)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name}={share} must be between 0 and 1")
        if self.conformal not in METHODS:
            raise ValueError(f"conformal={self.conformal!r} is not one of {', '.join(METHODS)}")
        if self.reject is not None:
            if classifier.rejection is None:
                raise UserError(f"reject={self.reject}: the checkpoint has no rejection score; train it again")
            needed, images = images_for(self.reject), classifier.rejection.images
            if images < needed:
                raise UserError(
                    f"reject={self.reject} needs {needed} validation images, and this checkpoint had {images}: "
                    f"a larger share works with fewer"
                )
            if NONE_OF_THESE in classifier.spec.classes:
                raise UserError(f"reject={self.reject}: the checkpoint has a class of its own named {NONE_OF_THESE!r}")
        if self.coverage is not None:
            if not classifier.set_calibration:
                raise UserError(f"coverage={self.coverage}: the checkpoint has no calibrated sets; train it again")
            largest_score(classifier.set_calibration[self.conformal], self.coverage)


def images_for(reject: float) -> int:
    """The least number of validation images with which this share of known images can be rejected."""
    return math.ceil(1 / reject - 1e-9) - 1


@dataclass(frozen=True)
class Decisions:
    """The decisions for n images.

    Attributes:
        scores: (n,) float64, None of a classifier without a rejection score.
        rejected: (n,) bool, None without `reject`.
        sets: the classes in the set of each image, the most probable first; None without `coverage`.
    """

    scores: Tensor | None = None
    rejected: Tensor | None = None
    sets: list[list[int]] | None = None

    def columns(self, classes: Sequence[str]) -> dict[str, list[float | int | str]]:
        """Columns of `predictions.csv`: `score`, `set_size`, and `set`, the names of its classes as a JSON list."""
        columns: dict[str, list[float | int | str]] = {}
        if self.scores is not None:
            columns["score"] = self.scores.tolist()
        if self.sets is not None:
            columns["set_size"] = [len(chosen) for chosen in self.sets]
            names = [[classes[i] for i in chosen] for chosen in self.sets]
            columns["set"] = [json.dumps(chosen, ensure_ascii=False) for chosen in names]
        return columns


def rejection_scores(rejection: RejectionScore, logits: Tensor) -> Tensor:
    """The scores (n,) float64 of logits (n, classes), one image at a time: torch's last digit depends on the others."""
    return torch.cat([rejection(row) for row in logits.double().split(1)])


def decide(classifier: AnyClassifier, logits: Tensor, settings: DecisionSettings) -> Decisions:
    """Decide on n images.

    Args:
        classifier: whose logits they are.
        logits: (n, classes) float32.
        settings: which decisions are wanted.

    Raises:
        UserError: the classifier cannot decide so (see `DecisionSettings.check`).
    """
    settings.check(classifier)
    logits = logits.double()
    scores = rejected = sets = None
    if classifier.rejection:
        scores = rejection_scores(classifier.rejection, logits)
        rejected = None if settings.reject is None else scores < settings.reject
    if settings.coverage is not None:
        probabilities = logits.softmax(dim=1)
        chosen = prediction_sets(probabilities, classifier.set_calibration, settings.coverage, settings.conformal)
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        sets = [ranked[row[ranked]].tolist() for ranked, row in zip(order, chosen, strict=True)]
    return Decisions(scores, rejected, sets)


def calibrate_decisions(classifier: Classifier, val: Evaluation) -> None:
    """Fit the rejection score and the prediction sets of a classifier to its logits for the validation images."""
    classifier.rejection = RejectionScore.fit(val.logits)
    classifier.set_calibration = calibrate_sets(val.probabilities, val.labels)


def decision_metrics(classifier: AnyClassifier, evaluation: Evaluation) -> dict[str, Any]:
    """How the decisions fare on images other than the validation images: `rejected` and `prediction_sets`.

    The former is the share of these images, all of known classes, that each `reject` would reject, with its interval;
    the latter holds `set_metrics` by method and coverage. Shares that need more validation images are left out.
    """
    metrics: dict[str, Any] = {}
    if classifier.rejection:
        scores, count = rejection_scores(classifier.rejection, evaluation.logits), len(evaluation.split)
        rejected = {share: int((scores < share).sum()) for share in _REJECTED}
        metrics["rejected"] = {
            str(share): {"share": found / count, "ci95": {"share": wilson(found, count)}}
            for share, found in rejected.items()
            if images_for(share) <= classifier.rejection.images
        }
    if classifier.set_calibration:
        metrics["prediction_sets"] = {
            method: {
                str(coverage): set_metrics(
                    prediction_sets(evaluation.probabilities, classifier.set_calibration, coverage, method),
                    evaluation.labels,
                )
                for coverage in LEVELS
                if images_for(1 - coverage) <= len(classifier.set_calibration[method])
            }
            for method in METHODS
        }
    return metrics
