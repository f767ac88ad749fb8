"""Metrics and files of a classifier on a split whose labels are known."""

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sports_lightning.data.image_folder import DatasetIndex, Split
from sports_lightning.evaluate.calibration import brier_scores, calibration_metrics
from sports_lightning.evaluate.intervals import METHODS, bootstrap_mean, format_metric, wilson, wilson_f1
from sports_lightning.evaluate.metrics import class_scores, compute_metrics, confusion_matrix, macro_intervals
from sports_lightning.inference.feature_cache import logits_from_features
from sports_lightning.inference.frozen_part import FrozenPart
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.models.classifier import Classifier
from sports_lightning.reports import plots
from sports_lightning.storage.files import write_csv


@dataclass(frozen=True)
class ClassMetrics:
    """A class's metrics: how many images, precision, recall and F1 with 95 % intervals, and what it is taken for."""

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
    """Logits (n, classes) float32 of a classifier for the images of a split."""

    root: Path
    split: Split
    classes: list[str]
    logits: Tensor

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

    def without(self, paths: Collection[str]) -> "Evaluation":
        """The same without some of the images."""
        kept = [i for i, path in enumerate(self.split.paths) if path not in paths]
        split = Split([self.split.paths[i] for i in kept], self.split.labels[kept])
        return replace(self, split=split, logits=self.logits[kept])

    def metrics(self) -> dict[str, Any]:
        """Loss, accuracies, macro averages (see metrics), calibration, `count`, and `ci95`: the intervals by name."""
        metrics: dict[str, Any] = compute_metrics(self.logits, self.labels)
        metrics |= calibration_metrics(self.probabilities, self.labels)
        count = len(self.split)
        intervals = {
            "acc": wilson(round(metrics["acc"] * count), count),
            "acc_top5": wilson(round(metrics["acc_top5"] * count), count),
            **macro_intervals(self.confusion),
        }
        if count > 1:
            intervals["loss"] = bootstrap_mean(-self.label_probabilities.log().numpy())
            intervals["brier"] = bootstrap_mean(brier_scores(self.probabilities, self.labels).numpy())
        return {**metrics, "count": count, "ci95": intervals}

    def write(self, folder: Path) -> None:
        """Write `predictions.csv`, `per_class.csv`, `confusion_matrix.png` and `mistakes.png` into `folder`."""
        self._write_predictions(folder / "predictions.csv")
        header = ["class", *(field.name for field in fields(ClassMetrics)[1:])]
        write_csv(folder / "per_class.csv", header, map(astuple, self.per_class()))
        plots.confusion_matrix(self.confusion, self.classes, folder / "confusion_matrix.png")
        self._draw_mistakes(folder / "mistakes.png")

    @cached_property
    def confusion(self) -> Tensor:
        """(classes, classes) int64: rows are labels, columns predictions."""
        return confusion_matrix(self.predicted, self.labels, len(self.classes))

    @property
    def confused(self) -> Tensor:
        """`confusion` without what is right."""
        return self.confusion - torch.diag(self.confusion.diag())

    def per_class(self) -> list[ClassMetrics]:
        """A row for each class, in the order of `classes`."""
        scores = torch.stack(class_scores(self.confusion), dim=1).tolist()
        mistaken = self.confused
        rows = []
        for label, (name, (precision, recall, f1)) in enumerate(zip(self.classes, scores, strict=True)):
            count, correct = int(self.confusion[label].sum()), int(self.confusion[label, label])
            involved = count + int(self.confusion[:, label].sum()) - correct
            of_recall = wilson(correct, count) if count else (0.0, 1.0)
            of_f1 = wilson_f1(correct, involved) if involved else (0.0, 1.0)
            other = self.classes[int(mistaken[label].argmax())] if mistaken[label].any() else ""
            rows.append(ClassMetrics(name, count, precision, recall, *of_recall, f1, *of_f1, other))
        return rows

    def most_confident_mistakes(self, most: int) -> list[int]:
        """Positions of wrong predictions, the surest first."""
        wrong = (~self.is_correct).nonzero().flatten()
        order = self.confidence[wrong].argsort(descending=True, stable=True)
        return wrong[order][:most].tolist()

    def least_confident_successes(self, most: int) -> list[int]:
        """Positions of right predictions, the least sure first."""
        right = self.is_correct.nonzero().flatten()
        order = self.confidence[right].argsort(stable=True)
        return right[order][:most].tolist()

    def caption(self, i: int) -> str:
        """What image i was taken for, and what it is."""
        predicted = self.classes[int(self.predicted[i])]
        return f"{predicted} {self.confidence[i]:.0%}\nis {self.classes[self.split.labels[i]]}"

    def _write_predictions(self, path: Path) -> None:
        header, columns = top5_columns(self.probabilities, self.classes)
        of_label = self.label_probabilities.tolist()
        label_names = [self.classes[label] for label in self.split.labels]
        rows = zip(self.split.paths, label_names, columns, of_label, strict=True)
        write_csv(
            path,
            ["path", "label", *header, "label_probability"],
            ([image, label, *column, probability] for image, label, column, probability in rows),
        )

    def _draw_mistakes(self, path: Path, most: int = 24) -> None:
        wrong = self.most_confident_mistakes(most)
        plots.image_grid(
            [self.root / self.split.paths[i] for i in wrong],
            [self.caption(i) for i in wrong],
            path,
            title=f"most confident mistakes: {len(wrong)} of {int((~self.is_correct).sum())}",
        )


def evaluate_split(
    classifier: Classifier,
    index: DatasetIndex,
    split: str,
    inference: DictConfig,
    kept: tuple[FrozenPart, Path] | None = None,
) -> Evaluation:
    """Run the classifier over a split of the index.

    Args:
        classifier: see `load_classifier`.
        index: with the split.
        split: its name.
        inference: `conf/inference/*.yaml`.
        kept: a part of the classifier that has not changed since it was loaded, and the folder where what it gives is
            kept.
    """
    if kept:
        part, cache_dir = kept
        logits = logits_from_features(part, classifier, index, split, inference, cache_dir)
    else:
        logits = compute_logits(classifier, index.root, index.splits[split], inference)
    return Evaluation(index.root, index.splits[split], index.classes, logits)


def metrics_with_and_without_leaks(evaluation: Evaluation, leaks: Collection[str] | None) -> dict[str, Any]:
    """The metrics, and as `without_leaks` those without the images that the classifier may have seen.

    Args:
        evaluation: of a split.
        leaks: paths of its images that an earlier split has too; None where that is not known.
    """
    metrics = evaluation.metrics()
    if leaks is not None:
        rest = evaluation.without(leaks)
        leaking = len(evaluation.split) - len(rest.split)
        # Where every image leaks there are no metrics without.
        without = (rest.metrics() if rest.split.paths else None) if leaking else dict(metrics)
        metrics |= {"leaks": leaking, "without_leaks": without}
    return metrics


def print_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Print {split: {name: value}} as a table: a metric and its 95 % interval, where it has one, in a row."""
    metrics = _with_leak_free(metrics)
    table = Table("", *metrics, caption=METHODS if any("ci95" in values for values in metrics.values()) else None)
    names = [name for name, value in next(iter(metrics.values())).items() if isinstance(value, int | float)]
    for name in names:
        table.add_row(name, *(format_metric(values, name, digits=3).replace(" ", "\n") for values in metrics.values()))
    Console().print(table)


def _with_leak_free(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The same with the metrics without leaks as a column of its own: test's, or those of the only split there is."""
    columns: dict[str, Mapping[str, Any]] = {}
    for split, values in metrics.items():
        columns[split] = values
        if values.get("leaks") and values["without_leaks"] and (split == "test" or len(metrics) == 1):
            columns[f"without {values['leaks']} leaks"] = values["without_leaks"]
    return columns


def top5_columns(probabilities: Tensor, classes: list[str]) -> tuple[list[str], list[list[str | float]]]:
    """The columns that every predictions file shares: the prediction, its probability, and the top five with theirs.

    Returns:
        The header and a list for each of the n images of probabilities (n, classes).
    """
    top = probabilities.topk(min(5, len(classes)), dim=1)
    header = ["prediction", "probability"]
    for rank in range(1, top.values.shape[1] + 1):
        header += [f"top{rank}", f"top{rank}_probability"]
    rows: list[list[str | float]] = []
    for values, indices in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        ranked = [cell for p, i in zip(values, indices, strict=True) for cell in (classes[i], p)]
        rows.append([*ranked[:2], *ranked])
    return header, rows
