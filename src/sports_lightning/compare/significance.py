"""Significance of the difference between two classifiers on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sports_lightning.evaluate.intervals import TAILS


@dataclass(frozen=True)
class PairedDifference:
    """The accuracy of a first classifier minus that of a second on the same n images.

    Attributes:
        difference: the difference in accuracy.
        low, high: its 95 % confidence interval: Wald's interval after adding one image to each discordant count
            (Bonett and Price 2012).
        only_first, only_second: how many images only the first, or only the second, classifies correctly.
        p_value: two-sided p-value of McNemar's exact test (McNemar 1947).
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare two classifiers.

    Args:
        first, second: for each image, in the same order, whether the classifier is correct.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant, count = only_first + only_second, len(a)
    p_value = float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    shares = (only_first + 1) / (count + 2), (only_second + 1) / (count + 2)
    center = shares[0] - shares[1]
    margin = float(stats.norm.ppf(TAILS[1])) * ((sum(shares) - center**2) / (count + 2)) ** 0.5
    low, high = max(-1.0, center - margin), min(1.0, center + margin)
    return PairedDifference((only_first - only_second) / count, low, high, only_first, only_second, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for multiple comparisons by Holm's step-down method (Holm 1979), in the given order."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[position] * (len(p_values) - rank)))
        corrected[position] = largest
    return corrected


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error (nan for a single value)."""
    return float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else float("nan")
