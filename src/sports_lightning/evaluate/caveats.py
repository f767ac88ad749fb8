"""Which metrics of an evaluation say little or nothing: too few images, few classes, or one class that dominates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sports_lightning.data.file_hashes import printable
from sports_lightning.evaluate.calibration import ece_by_chance

_FEW = 10  # images of a class: the interval of a recall of 0.5 is wider than 0.5
_WIDE = 0.2  # interval of the accuracy
_MUCH = 0.02  # ece that is due to chance
_NAMED = 10  # classes in a line


def find_caveats(
    metrics: Mapping[str, Any],
    images: Sequence[int],
    groups_per_class: Sequence[int],
    classes: Sequence[str],
    confidence: np.ndarray,
) -> list[str]:
    """Sentences about metrics that mean little on these images.

    Args:
        metrics: with `acc`, `acc_top5`, `acc_majority`, `ece` and `ci95`.
        images: number of images of each class.
        groups_per_class: number of groups of near copies or of one scene; the number of images where no two images
            form a group.
        classes: their names.
        confidence: (n,) float64, the probability of each prediction.
    """
    counts = np.asarray(images)
    few, count = int(((counts > 0) & (counts < _FEW)).sum()), int(counts.sum())
    single = list(groups_per_class).count(1)
    found = _baselines(metrics, classes[int(counts.argmax())], len(classes), int((counts > 0).sum()))
    low, high = metrics["ci95"]["acc"]
    if high - low > _WIDE:
        found.append(f"acc is uncertain by {high - low:.2f} (95 % interval), with {count:,} images")
    if few:
        found.append(f"recall, precision and F1 of {few} of {len(classes)} classes rest on fewer than {_FEW} images")
    if single:
        has = "class has" if single == 1 else "classes have"
        only = "image" if sum(groups_per_class) == count else "group of images"
        found.append(f"macro averages have no intervals, because {single} {has} a single {only}")
    elif not metrics["ci95"].keys() >= {"precision_macro", "recall_macro", "f1_macro"}:
        found.append("some macro averages have no intervals, because resampling these images does not change them")
    if missing := int((counts == 0).sum()):
        without = "the class" if missing == 1 else f"{missing} classes"
        found.append(f"macro averages do not cover {without} without images, unless predicted")
    by_chance = ece_by_chance(confidence)
    if by_chance > max(_MUCH, metrics["ece"] / 2):
        found.append(f"ece is mostly chance: calibrated probabilities would have {by_chance:.2f} with so few images")
    return found


def _baselines(metrics: Mapping[str, Any], largest: str, classes: int, present: int) -> list[str]:
    """What a classifier that guesses, or always predicts the largest class, would reach."""
    found = []
    if classes <= 5:
        found.append(f"acc_top5 is always 1 with {classes} classes")
    elif classes <= 10:
        found.append(f"acc_top5 is {5 / classes:.2f} for guesses among {classes} classes")
    majority, name = metrics["acc_majority"], printable(largest)
    if metrics["ci95"]["acc"][0] <= majority:
        found.append(f"acc is not distinguishable from always predicting {name}, which has acc {majority:.4f}")
    elif majority > max(1.5 / present, _WIDE):
        found.append(f"always predicting {name} has acc {majority:.4f}, and recall_macro {1 / present:.4f}")
    return found


def describe_caveats(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The caveats of {split: metrics} as lines, the classes without images first."""
    lines = []
    for split, values in metrics.items():
        if names := values.get("classes_missing"):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"{split} has no images of {', '.join(map(printable, names[:_NAMED]))}{more}")
        lines += [f"{split}: {caveat}" for caveat in values.get("caveats", ())]
    return lines
