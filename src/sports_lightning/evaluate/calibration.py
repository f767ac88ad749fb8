"""Calibration of the probabilities, and temperature scaling (Guo et al. 2017)."""

import logging
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

log = logging.getLogger(__name__)

BINS = 15  # of equal width, as in Guo et al.


class Bin(NamedTuple):
    """Predictions with a confidence in `low`..`high`: their count, mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def calibration_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Expected calibration error over 15 bins (torchmetrics), and the Brier score over all classes (0..2; Brier 1950).

    Args:
        probabilities: (n, classes).
        labels: (n,) int64.
    """
    ece = multiclass_calibration_error(probabilities, labels, probabilities.shape[1], n_bins=BINS, norm="l1")
    return {"ece": float(ece), "brier": float(brier_scores(probabilities, labels).mean())}


def brier_scores(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of each image's probabilities (n, classes) from the truth; (n,)."""
    return (probabilities - F.one_hot(labels, probabilities.shape[1])).square().sum(dim=1)


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[Bin]:
    """The non-empty bins of n predictions: `confidence` (n,) in 0..1, `correct` (n,) bool."""
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for place in np.unique(places):
        inside = places == place
        means = float(confidence[inside].mean()), float(correct[inside].mean())
        bins.append(Bin(place / BINS, (place + 1) / BINS, int(inside.sum()), *means))
    return bins


def ece_by_chance(confidence: np.ndarray) -> float:
    """About the expected calibration error that n predictions of this confidence (n,) have if they are calibrated.

    In each bin, the accuracy differs from the mean confidence by chance, with a variance of p (1 - p) / images; the
    mean of the absolute difference is that of a normal distribution.
    """
    places = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS)
    variances = np.bincount(places, confidence * (1 - confidence))  # times the images of each bin, squared
    return float(np.sqrt(2 / np.pi * variances).sum() / len(confidence))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature between 0.05 and 20 that minimizes the cross-entropy of logits (n, classes) / temperature.

    Returns 1.0 if the minimum is not within these bounds, for example because all predictions are correct.
    """

    def cross_entropy(log_temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / np.exp(log_temperature), labels))

    bounds = (np.log(0.05), np.log(20))
    found = minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x
    if min(found - bounds[0], bounds[1] - found) < 0.01:
        log.warning("calibrate: no temperature between 0.05 and 20 minimizes the loss on these images; it stays 1")
        return 1.0
    return float(np.exp(found))
