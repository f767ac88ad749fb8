"""Compares runs: which settings differ, means over seeds, and which accuracy differences are significant."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sports_lightning.compare.run_reader import Run
from sports_lightning.compare.significance import PairedDifference, holm, mean_and_error, paired_difference
from sports_lightning.evaluate.caveats import describe_caveats
from sports_lightning.split.groups import join_groups

ALPHA = 0.05  # significance level of the corrected p-values


class Pairing(NamedTuple):
    """Two runs on the same images.

    Attributes:
        first, second: the runs' names.
        split: the split they predicted.
        images: how many images it has.
        result: the difference in accuracy, first minus second.
        p_holm: the p-value, corrected for all pairings of the comparison (Holm 1979).
        folds: {fold: difference in accuracy} of two cross-validations with the same folds; else empty.
    """

    first: str
    second: str
    split: str
    images: int
    result: PairedDifference
    p_holm: float
    folds: dict[int, float]

    @property
    def verdict(self) -> str:
        """The result as text."""
        if self.p_holm >= ALPHA:
            return "not distinguishable"
        return f"{self.first if self.result.difference > 0 else self.second} is better"


class SeedGroup(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
        runs: their names.
        metrics: {metric: (mean, standard error of the mean)}.
    """

    runs: list[str]
    metrics: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_runs`.

    Attributes:
        runs: the compared runs.
        differing: the dotted keys of the settings in which the runs differ.
        seeds: the groups of runs that differ only in their seed.
        pairings: each pair of runs on the same images.
        not_paired: for each pair on different images, a line that says so.
    """

    runs: list[Run]
    differing: list[str]
    seeds: list[SeedGroup]
    pairings: list[Pairing]
    not_paired: list[str]

    @property
    def caveats(self) -> list[str]:
        """Lines about metrics of a run that mean little, such as those of classes without images."""
        return [f"{run.name}: {line}" for run in self.runs for line in describe_caveats(run.metrics)]

    def settings(self, run: Run) -> dict[str, Any]:
        """The settings of `run` in which the compared runs differ."""
        return {key: run.config.get(key) for key in self.differing}


def _joined_groups(first: list[int] | None, second: list[int] | None) -> list[int] | None:
    """Groups of images that either run has together, so that the order of the runs does not matter."""
    if first is None or second is None:
        return second if first is None else first
    _, starts, codes = np.unique(second, return_index=True, return_inverse=True)
    together = ((image, int(starts[code])) for image, code in enumerate(codes))
    groups: list[int] = join_groups(len(first), together, np.array(first)).tolist()
    return groups


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Test all pairs of runs that predicted the same images, and average runs that differ only in their seed.

    Each pair is compared by McNemar's exact test, or by its form for groups of images where there are near copies or
    scenes, with Holm's correction over all pairs (see `significance`). Cross-validations are compared on all images.
    """
    keys = sorted({key for run in runs for key in run.config})
    differing = [key for key in keys if len({repr(run.config.get(key)) for run in runs}) > 1]
    pairs, not_paired = [], []
    for first, second in itertools.combinations(runs, 2):
        if (first.split, first.fingerprint) == (second.split, second.fingerprint):
            groups = _joined_groups(first.groups, second.groups)
            pairs.append((first, second, paired_difference(first.is_correct, second.is_correct, groups)))
        else:
            not_paired.append(
                f"{first.name} and {second.name}: different data "
                f"({first.split} {first.fingerprint[:8]}, {second.split} {second.fingerprint[:8]})"
            )
    corrected = holm([result.p_value for _, _, result in pairs])
    pairings = [
        Pairing(
            first.name,
            second.name,
            first.split,
            len(first.is_correct),
            result,
            p_value,
            _fold_differences(first, second),
        )
        for (first, second, result), p_value in zip(pairs, corrected, strict=True)
    ]
    return Comparison(list(runs), differing, _seed_groups(runs), pairings, not_paired)


def _fold_differences(first: Run, second: Run) -> dict[int, float]:
    if not first.folds or first.folds != second.folds:
        return {}
    folds, difference = np.array(first.folds), np.subtract(first.is_correct, second.is_correct, dtype=np.float64)
    return {int(fold): float(difference[folds == fold].mean()) for fold in np.unique(folds)}


def _seed_groups(runs: Sequence[Run]) -> list[SeedGroup]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.config.items() if key != "seed"}
        group = groups.setdefault(repr([settings, run.split, run.fingerprint]), [])
        if run.config.get("seed") not in [other.config.get("seed") for other in group]:  # a repeated run adds nothing
            group.append(run)
    return [
        SeedGroup([run.name for run in members], _means(members)) for members in groups.values() if len(members) > 1
    ]


def _means(runs: list[Run]) -> dict[str, tuple[float, float]]:
    splits = [split for split in ("val", "test") if split in runs[0].metrics]
    return {
        f"{split}/{name}": mean_and_error([run.metrics[split][name] for run in runs])
        for split in splits
        for name in ("acc", "loss", "f1_macro")
    }
