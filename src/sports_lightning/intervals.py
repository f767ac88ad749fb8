"""How sure a figure is: 95 % intervals, and whether two classifiers can be told apart on the same pictures.

No torch in here, for `compare`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
METHODS = "95 % intervals: Wilson for accuracies and for recall and F1 of a class, bootstrap for the rest"
RESAMPLES = 2000

Interval = tuple[float, float]


def wilson(successes: int, count: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), by scipy."""
    found = stats.binomtest(successes, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def wilson_f1(correct: int, involved: int) -> Interval:
    """Interval of a class's F1, by the indirect Wilson method (Lam, Gopal and Qian 2023).

    F1 grows with the share of pictures that are right among those which are of the class or were taken for it, and that
    share is a proportion.

    Args:
        correct: pictures of the class that were taken for it.
        involved: pictures that are of the class, or were taken for it.
    """
    low, high = wilson(correct, involved)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def bootstrap_mean(values: np.ndarray) -> Interval:
    """Percentile bootstrap interval of the mean of `values` (n,), by scipy; the same every time.

    There have to be two values at least.
    """
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=max(1, 2**22 // len(values)),
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one classifier minus that of another on the same n pictures.

    Attributes:
        difference: of the accuracies.
        low, high: 95 % interval, Wald's with one picture more that the first, and one that the second alone has right
            (Bonett and Price 2012).
        only_first, only_second: pictures that one of them alone has right.
        p_value: McNemar's exact test (McNemar 1947), two-sided.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare two classifiers by which of the same pictures, in the same order, each has right."""
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


def shown(figures: Mapping[str, Any], name: str, digits: int = 4) -> str:
    """A figure with its interval to so many digits, as in "0.9620 (0.9414–0.9756)"; nothing where it is not there."""
    if name not in figures:
        return ""
    if isinstance(figures[name], int):
        return f"{figures[name]:,}"
    interval = figures.get("ci95", {}).get(name)
    return f"{figures[name]:.4f}" + (f" ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})" if interval else "")
