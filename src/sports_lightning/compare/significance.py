"""Whether two classifiers can be told apart on the same images. No torch in here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sports_lightning.evaluate.intervals import TAILS


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one classifier minus that of another on the same n images.

    Attributes:
        difference: of the accuracies.
        low, high: 95 % interval, Wald's with one image more that the first, and one that the second alone has right
            (Bonett and Price 2012).
        only_first, only_second: images that one of them alone has right.
        p_value: McNemar's exact test (McNemar 1947), two-sided.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare two classifiers by which of the same images, in the same order, each has right."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant, count = only_first + only_second, len(a)
    p_value = float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    shares = (only_first + 1) / (count + 2), (only_second + 1) / (count + 2)
    middle = shares[0] - shares[1]
    reach = float(stats.norm.ppf(TAILS[1])) * ((sum(shares) - middle**2) / (count + 2)) ** 0.5
    low, high = max(-1.0, middle - reach), min(1.0, middle + reach)
    return PairedDifference((only_first - only_second) / count, low, high, only_first, only_second, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many comparisons were made, by Holm's step-down method (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[position] * (len(p_values) - rank)))
        corrected[position] = largest
    return corrected


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error (nan for one value)."""
    return float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else float("nan")
