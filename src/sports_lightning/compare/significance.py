"""Significance of the difference between two classifiers on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sports_lightning.evaluate.clustered_intervals import design_effect
from sports_lightning.evaluate.intervals import TAILS


@dataclass(frozen=True)
class PairedDifference:
    """The accuracy of a first classifier minus that of a second on the same n images.

    Attributes:
        difference: the difference in accuracy.
        low, high: its 95 % confidence interval: Wald's interval after adding one image to each discordant count
            (Bonett and Price 2012). For images in groups, that of the effective number of images, n divided by the
            design effect (Kish 1965), with the quantile of Student's t, as `clustered_wilson`.
        only_first, only_second: how many images only the first, or only the second, classifies correctly.
        p_value: two-sided p-value of McNemar's exact test (McNemar 1947). For images in groups, of the exact
            permutation test that exchanges the classifiers in whole groups; it is McNemar's if each image is a group.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], groups: Sequence[int] | None = None
) -> PairedDifference:
    """Compare two classifiers.

    Args:
        first, second: for each image, in the same order, whether the classifier is correct.
        groups: images with the same number are not independent, such as near copies; None: all are independent.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    count = len(a)
    sums, effect = _sums_of_groups(a, b, groups)
    p_value = _permutation_p_value(sums)
    effective = count / effect
    shares = [(discordant / effect + 1) / (effective + 2) for discordant in (only_first, only_second)]
    center = shares[0] - shares[1]
    quantile = stats.norm.ppf(TAILS[1]) if len(sums) == count else stats.t.ppf(TAILS[1], len(sums) - 1)
    margin = float(quantile) * ((sum(shares) - center**2) / (effective + 2)) ** 0.5
    low, high = (-1.0, 1.0) if len(sums) == 1 < count else (max(-1.0, center - margin), min(1.0, center + margin))
    return PairedDifference((only_first - only_second) / count, low, high, only_first, only_second, p_value)


def _sums_of_groups(a: np.ndarray, b: np.ndarray, groups: Sequence[int] | None) -> tuple[np.ndarray, float]:
    """The sum of differences (1, 0 or -1 per image) in each group, and the design effect, at least 1.

    Of differences that are all alike, whose variance says nothing, each group counts as one image.
    """
    differences = a.astype(np.int64) - b
    if groups is None:
        return differences, 1.0
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(codes, differences).round().astype(np.int64)
    if len(sums) == 1 or (differences == differences[0]).all():
        return sums, len(differences) / len(sums)
    return sums, design_effect(differences, codes)


def _permutation_p_value(sums: np.ndarray) -> float:
    """The probability that the sum of ±`sums`, with independent random signs, is as far from zero as their sum is.

    Exact: the sums are whole numbers, and those of equal size are binomial.
    """
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    if len(sizes) == 1:
        return float(stats.binomtest(int((sums > 0).sum()), int(counts[0]), 0.5).pvalue)
    distribution = np.ones(1)  # of the sum of the positive ones
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        part = np.zeros(size * count + 1)
        part[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, part)
    total = len(distribution) - 1
    distances = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(distribution[distances >= abs(int(sums.sum()))].sum()))


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
