"""95 % confidence intervals of metrics. Without torch, since `compare` imports it."""

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
    """Interval of the F1 of a class, by the indirect Wilson method (Lam, Gopal and Qian 2023).

    F1 is a monotonic function of a proportion: the correct predictions among the images that have the class as label
    or as prediction.

    Args:
        correct: images whose label and prediction are the class.
        involved: images whose label or prediction is the class.
    """
    low, high = wilson(correct, involved)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def bootstrap_mean(values: np.ndarray) -> Interval:
    """Percentile bootstrap interval of the mean of `values` (n,), n ≥ 2, by scipy; deterministic."""
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=max(1, 2**22 // len(values)),
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def metrics_without(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(title, metrics) without the leaks and without the suspects of a split, as far as it has such images."""
    return [
        (f"without {metrics[name]} {name}", metrics[f"without_{name}"])
        for name in ("leaks", "suspects")
        if metrics.get(name) and metrics[f"without_{name}"]
    ]


def format_metric(metrics: Mapping[str, Any], name: str, digits: int = 4) -> str:
    """A metric with its interval, such as "0.9620 (0.9414–0.9756)"; "" where `metrics` does not have it."""
    if name not in metrics:
        return ""
    if isinstance(metrics[name], int):
        return f"{metrics[name]:,}"
    interval = metrics.get("ci95", {}).get(name)
    return f"{metrics[name]:.4f}" + (f" ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})" if interval else "")
