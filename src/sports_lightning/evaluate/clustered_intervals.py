"""95 % confidence intervals for images in groups, such as near copies: a group counts as one observation, not several.

Accuracies have Wilson's interval for the effective number of images: n divided by the design effect, the ratio of the
variance between groups to that of independent images (Kish 1965; Dean and Pagano 2015, who compare such intervals for
clustered proportions). The other metrics have a percentile bootstrap of whole groups (Davison and Hinkley 1997, section
3.8; Field and Welsh 2007), stratified by class, as the folds are.

In cross-validation, the intervals are those of the trained models: they hold for new images like these. They do not
cover how the models would vary with other training images, which the folds share, so that no unbiased estimate of that
variance exists (Bengio and Grandvalet 2004).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import sparse, stats

from sports_lightning.evaluate.intervals import METHODS, RESAMPLES, TAILS, Interval, wilson

_CLUSTERED = (
    "95 % intervals: groups of near copies count as one observation; Wilson with the effective number of images for "
    "accuracies, bootstrap of groups for the rest; recall and F1 of a class: Wilson, as if images were independent"
)
_BATCH = 2**22  # weights of resampled groups that are in memory at once


def describe_methods(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """How the intervals of {split: {metric: value}} were computed, in one line."""
    is_clustered = any("groups" in values and values["groups"] < values["count"] for values in metrics.values())
    return _CLUSTERED if is_clustered else METHODS


def clustered_wilson(correct: np.ndarray, groups: np.ndarray) -> Interval:
    """Wilson's interval of a proportion for the effective number of images; without larger groups, Wilson's own.

    The quantile is that of Student's t with one degree of freedom less than there are groups, since the variance
    between few groups is itself uncertain. A single group says nothing about others: its interval is 0 to 1.

    Args:
        correct: (n,) bool.
        groups: (n,) int64.
    """
    share = float(correct.mean())
    varies = 0 < share < 1
    num_groups = len(np.unique(groups))
    if num_groups == len(correct):
        return wilson(int(correct.sum()), len(correct))
    if num_groups == 1:
        return 0.0, 1.0
    count = len(correct) / design_effect(correct, groups) if varies else float(num_groups)
    z = float(stats.t.ppf(TAILS[1], num_groups - 1))
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return max(0.0, center - margin), min(1.0, center + margin)


def design_effect(values: np.ndarray, groups: np.ndarray) -> float:
    """The variance of the mean of `values` (n,) in groups (n,), relative to that of independent values; at least 1."""
    independent = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    return max(1.0, clustered_variance(values, groups) / independent) if independent else 1.0


def clustered_variance(values: np.ndarray, groups: np.ndarray) -> float:
    """The variance of the mean of `values` (n,), whose groups (n,) are independent; linearized; inf for one group."""
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, values - values.mean())
    return float((sums**2).sum()) / len(values) ** 2 * len(sums) / (len(sums) - 1) if len(sums) > 1 else np.inf


def clustered_bootstrap(
    values: Mapping[str, np.ndarray], predicted: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_classes: int
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of means and of the macro scores; deterministic.

    n - 1 of the n groups of a class are drawn, with weights n / (n - 1) (Rao and Wu 1988); the class of a group is that
    of its first image. If a class has a single group, whose variance is unknown, the groups of all classes are drawn
    together, and the macro scores have no interval.

    Args:
        values: {metric: (n,) float64}, whose means are wanted.
        predicted, labels: (n,) int64.
        groups: (n,) int64.
        num_classes: number of classes.

    Returns:
        {metric: (low, high)}; empty for a single group.
    """
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    strata = labels[first]
    if len(first) < 2:
        return {}
    has_single = bool((np.bincount(strata) == 1).any())
    if has_single:
        strata = np.zeros_like(strata)
    sums = _group_sums(values, predicted, labels, codes, num_classes)
    is_present = np.bincount(labels, minlength=num_classes) + np.bincount(predicted, minlength=num_classes) > 0
    drawn: dict[str, list[np.ndarray]] = {}
    for weights in _resampled_weights(strata):
        totals = (sums.T @ weights.T).T
        correct, given, actual = (totals[:, i * num_classes :][:, :num_classes][:, is_present] for i in range(3))
        for i, name in enumerate(values):
            drawn.setdefault(name, []).append(totals[:, 3 * num_classes + i] / totals[:, -1])
        if not has_single:
            for name, denominator in (
                ("precision_macro", given), ("recall_macro", actual), ("f1_macro", (given + actual) / 2)
            ):  # fmt: skip
                scores = np.divide(correct, denominator, out=np.zeros_like(correct), where=denominator > 0)
                drawn.setdefault(name, []).append(scores.mean(axis=1))
    quantiles = {name: np.quantile(np.concatenate(parts), TAILS).tolist() for name, parts in drawn.items()}
    # A macro score that resampling does not change has no interval, as in `macro_intervals`.
    return {name: (low, high) for name, (low, high) in quantiles.items() if high - low > 1e-9 or name in values}


def _group_sums(
    values: Mapping[str, np.ndarray], predicted: np.ndarray, labels: np.ndarray, codes: np.ndarray, num_classes: int
) -> sparse.csr_array:
    """(groups, columns): correct, predicted and actual images per class, the sums of `values`, the number of images."""
    is_correct = predicted == labels
    parts = [
        (codes[is_correct], labels[is_correct], np.ones(is_correct.sum())),
        (codes, num_classes + predicted, np.ones(len(codes))),
        (codes, 2 * num_classes + labels, np.ones(len(codes))),
        *((codes, np.full(len(codes), 3 * num_classes + i), column) for i, column in enumerate(values.values())),
        (codes, np.full(len(codes), 3 * num_classes + len(values)), np.ones(len(codes))),
    ]
    rows, columns, data = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    shape = (int(codes.max()) + 1, 3 * num_classes + len(values) + 1)
    return sparse.csr_array((data, (rows, columns)), shape=shape)


def _resampled_weights(strata: np.ndarray) -> Iterator[np.ndarray]:
    """(resamples, groups) float64 weights, `RESAMPLES` in all; `strata` (groups,) have two groups each or more."""
    draws = np.random.default_rng(0)
    batch = max(1, _BATCH // len(strata))
    order = np.argsort(strata, kind="stable")
    strata_members = np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)
    for start in range(0, RESAMPLES, batch):
        weights = np.empty((min(batch, RESAMPLES - start), len(strata)))
        for members in strata_members:
            n = len(members)
            weights[:, members] = draws.multinomial(n - 1, np.full(n, 1 / n), size=len(weights)) * (n / (n - 1))
        yield weights
