"""Metrics of a classifier on a split whose labels are known."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.value_range import ValueRange
from sports_lightning.evaluate.calibration import brier_scores, calibration_metrics
from sports_lightning.evaluate.caveats import find_caveats
from sports_lightning.evaluate.clustered_intervals import clustered_bootstrap, clustered_wilson
from sports_lightning.evaluate.intervals import Interval, bootstrap_mean, wilson, wilson_f1
from sports_lightning.evaluate.metrics import (
    class_scores,
    compute_metrics,
    confusion_matrix,
    is_among_best,
    macro_intervals,
)
from sports_lightning.inference.exported import AnyClassifier
from sports_lightning.inference.feature_cache import logits_from_features
from sports_lightning.inference.frozen_part import FrozenPart
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.models.classifier import Classifier


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class: image count, precision, recall and F1, with 95 % intervals for the latter two.

    `most_confused_with` is the class that its images are most often mistaken for; "" where all are correct. Precision,
    recall and F1 are 0 where they are undefined: all three of a class with `count` 0.
    """

    label: str
    count: int
    precision: float
    recall: float
    recall_low: float
    recall_high: float
    f1: float
    f1_low: float
    f1_high: float
    most_confused_with: str


@dataclass(frozen=True)
class Evaluation:
    """The logits of a classifier for the images of a split, and the metrics computed from them.

    Attributes:
        root: the folder that the split's paths are relative to.
        split: paths and labels of n images.
        classes: their names.
        logits: (n, classes) float32.
        value_range: by which the classifier reads 16- and 32-bit pixels (see `Preprocessing`).
    """

    root: Path
    split: Split
    classes: list[str]
    logits: Tensor
    value_range: ValueRange | None = None

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""
        return torch.tensor(self.split.labels)

    @cached_property
    def probabilities(self) -> Tensor:
        """(n, classes) float64."""
        return self.logits.double().softmax(dim=1)

    @property
    def predicted(self) -> Tensor:
        """(n,) int64."""
        return self.logits.argmax(dim=1)

    @property
    def is_correct(self) -> Tensor:
        """(n,) bool."""
        return self.predicted == self.labels

    @cached_property
    def confidence(self) -> Tensor:
        """Probability of each prediction, (n,) float64."""
        return self.probabilities.amax(dim=1)

    @property
    def label_probabilities(self) -> Tensor:
        """Probability of each label, (n,) float64."""
        return self.probabilities.gather(1, self.labels[:, None]).flatten()

    @cached_property
    def confusion(self) -> Tensor:
        """(classes, classes) int64: rows are labels, columns predictions."""
        return confusion_matrix(self.predicted, self.labels, len(self.classes))

    @property
    def confused(self) -> Tensor:
        """`confusion` with zeros on its diagonal."""
        return self.confusion - torch.diag(self.confusion.diag())

    def without(self, paths: Collection[str]) -> "Evaluation":
        """The evaluation of the images that are not in `paths`."""
        rest = [i for i, path in enumerate(self.split.paths) if path not in paths]
        return replace(self, split=self.split.take(rest), logits=self.logits[rest])

    @property
    def is_in_top5(self) -> Tensor:
        """(n,) bool."""
        return is_among_best(self.logits, self.labels, 5)

    @property
    def losses(self) -> Tensor:
        """Cross-entropy of each image, (n,) float64. Not the logarithm of a probability, which may be 0."""
        return F.cross_entropy(self.logits.double(), self.labels, reduction="none")

    @property
    def groups(self) -> np.ndarray | None:
        """(n,) int64, images with the same number are near copies or of one scene; None if no two are."""
        groups = self.split.groups
        return None if groups is None or len(np.unique(groups)) == len(groups) else groups

    def metrics(self) -> dict[str, Any]:
        """Loss, accuracies, macro averages (see metrics), calibration, `count`, and `ci95`: the intervals by name.

        `groups` is the number of groups of images that are near copies or of one scene, if there are any; a group then
        counts as one observation (see `clustered_intervals`). `acc_majority` is the accuracy of always predicting the
        class with the most images. `classes_missing` lists the classes without images, and `caveats` sentences about
        metrics that mean little here, if there are any.
        """
        metrics: dict[str, Any] = compute_metrics(self.logits, self.labels)
        metrics |= calibration_metrics(self.probabilities, self.labels)
        count, groups = len(self.split), self.groups
        intervals = self._intervals(metrics) if groups is None else self._clustered_intervals(groups)
        images = self.confusion.sum(dim=1).tolist()
        missing = [name for name, count in zip(self.classes, images, strict=True) if not count]
        metrics |= {"acc_majority": max(images) / count, "count": count, "ci95": intervals}
        per_class = images if groups is None else self._groups_per_class(groups)
        metrics |= {} if groups is None else {"groups": sum(per_class)}
        caveats = find_caveats(metrics, images, per_class, self.classes, self.confidence.numpy())
        return metrics | {k: v for k, v in (("classes_missing", missing), ("caveats", caveats)) if v}

    def _groups_per_class(self, groups: np.ndarray) -> list[int]:
        """A group counts for the class of its first image, as in `clustered_bootstrap`."""
        first = np.unique(groups, return_index=True)[1]
        return np.bincount(np.asarray(self.split.labels)[first], minlength=len(self.classes)).tolist()

    def _intervals(self, metrics: Mapping[str, float]) -> dict[str, Interval]:
        count = len(self.split)
        intervals = {name: wilson(round(metrics[name] * count), count) for name in ("acc", "acc_top5")}
        intervals |= macro_intervals(self.confusion)
        if count > 1:
            # In float32, because torch's last digit varies from one process to another.
            intervals["loss"] = bootstrap_mean(self.losses.float().double().numpy())
            intervals["brier"] = bootstrap_mean(brier_scores(self.probabilities, self.labels).numpy())
        return intervals

    def _clustered_intervals(self, groups: np.ndarray) -> dict[str, Interval]:
        brier = brier_scores(self.probabilities, self.labels).numpy()
        values = {"loss": self.losses.float().double().numpy(), "brier": brier}
        return {
            "acc": clustered_wilson(self.is_correct.numpy(), groups),
            "acc_top5": clustered_wilson(self.is_in_top5.numpy(), groups),
            **clustered_bootstrap(values, self.predicted.numpy(), self.split.labels, groups, len(self.classes)),
        }

    def per_class(self) -> list[ClassMetrics]:
        """One row per class, in the order of `classes`."""
        scores = torch.stack(class_scores(self.confusion), dim=1).tolist()
        confused = self.confused
        rows = []
        for label, (name, (precision, recall, f1)) in enumerate(zip(self.classes, scores, strict=True)):
            count, correct = int(self.confusion[label].sum()), int(self.confusion[label, label])
            involved = count + int(self.confusion[:, label].sum()) - correct
            recall_interval = wilson(correct, count) if count else (0.0, 1.0)
            f1_interval = wilson_f1(correct, involved) if involved else (0.0, 1.0)
            other = self.classes[int(confused[label].argmax())] if confused[label].any() else ""
            rows.append(ClassMetrics(name, count, precision, recall, *recall_interval, f1, *f1_interval, other))
        return rows

    def most_confident_mistakes(self, most: int) -> list[int]:
        """Positions of up to `most` wrong predictions, the most confident first."""
        wrong = (~self.is_correct).nonzero().flatten()
        order = self.confidence[wrong].argsort(descending=True, stable=True)
        return wrong[order][:most].tolist()

    def least_confident_successes(self, most: int) -> list[int]:
        """Positions of up to `most` correct predictions, the least confident first."""
        correct = self.is_correct.nonzero().flatten()
        order = self.confidence[correct].argsort(stable=True)
        return correct[order][:most].tolist()

    def caption(self, i: int) -> str:
        """Prediction, confidence and label of image `i`, in two lines."""
        predicted = self.classes[int(self.predicted[i])]
        return f"{predicted} {self.confidence[i]:.0%}\nis {self.classes[self.split.labels[i]]}"


def evaluate_split(
    classifier: AnyClassifier,
    index: DatasetIndex,
    split: str,
    inference: DictConfig,
    cached_part: tuple[FrozenPart, Path] | None = None,
) -> Evaluation:
    """Run the classifier over a split of the index.

    Args:
        classifier: see `load_classifier`.
        index: with the split.
        split: its name.
        inference: `conf/inference/*.yaml`.
        cached_part: a frozen part of the classifier and the cache folder, where its outputs may be cached.
    """
    if cached_part and isinstance(classifier, Classifier):
        part, cache_dir = cached_part
        logits = logits_from_features(part, classifier, index, split, inference, cache_dir)
    else:
        logits = compute_logits(classifier, index.root, index.splits[split], inference)
    value_range = classifier.preprocessing.value_range
    return Evaluation(index.root, index.splits[split], index.classes, logits, value_range)


def metrics_with_and_without(
    evaluation: Evaluation, leaks: Collection[str] | None, suspects: Collection[str] | None
) -> dict[str, Any]:
    """The metrics, and those without images on which they may be misleading, under `without_leaks` and others.

    Args:
        evaluation: of a split.
        leaks: paths of its images that an earlier split has too; None if that is not known.
        suspects: paths of its images whose labels may be wrong; None if that is not known.
    """
    metrics = evaluation.metrics()
    found = dict(metrics)
    for name, paths in (("leaks", leaks), ("suspects", suspects)):
        if paths is not None:
            rest = evaluation.without(paths)
            count = len(evaluation.split) - len(rest.split)
            # If no image is left, there are no metrics without them.
            without = (rest.metrics() if rest.split.paths else None) if count else dict(metrics)
            found |= {name: count, f"without_{name}": without}
    return found
