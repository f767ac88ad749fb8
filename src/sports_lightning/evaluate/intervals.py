"""How sure a metric is: 95 % intervals, and whether two classifiers can be told apart on the same images.

No torch in here, for `compare`.
"""

from collections.abc import Mapping
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

    F1 grows with the share of images that are right among those which are of the class or were taken for it, and that
    share is a proportion.

    Args:
        correct: images of the class that were taken for it.
        involved: images that are of the class, or were taken for it.
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


def format_metric(metrics: Mapping[str, Any], name: str, digits: int = 4) -> str:
    """A metric with its interval to so many digits, as in "0.9620 (0.9414–0.9756)"; nothing where it is not there."""
    if name not in metrics:
        return ""
    if isinstance(metrics[name], int):
        return f"{metrics[name]:,}"
    interval = metrics.get("ci95", {}).get(name)
    return f"{metrics[name]:.4f}" + (f" ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})" if interval else "")
