"""Figures and files of a classifier on a split whose labels are known."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sports_lightning import plots
from sports_lightning.classifier import Classifier
from sports_lightning.data.index import Index, Split
from sports_lightning.features import logits_from_features
from sports_lightning.inference import compute_logits
from sports_lightning.metrics import class_scores, compute_figures, confusion_matrix
from sports_lightning.run_folder import write_csv


@dataclass(frozen=True)
class Evaluation:
    """Logits (n, classes) float32 of a classifier for the pictures of a split."""

    root: Path
    split: Split
    classes: list[str]
    logits: Tensor

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""
        return torch.tensor(self.split.labels)

    def figures(self) -> dict[str, float]:
        """Loss, accuracies and macro averages (see metrics)."""
        return compute_figures(self.logits, self.labels)

    def write(self, folder: Path) -> None:
        """Write `predictions.csv`, `per_class.csv`, `confusion_matrix.png` and `mistakes.png` into `folder`."""
        self._write_predictions(folder / "predictions.csv")
        confusion = self.confusion()
        self._write_per_class(confusion, folder / "per_class.csv")
        plots.confusion_matrix(confusion, self.classes, folder / "confusion_matrix.png")
        self._draw_mistakes(folder / "mistakes.png")

    def confusion(self) -> Tensor:
        """(classes, classes) int64: rows are labels, columns predictions."""
        return confusion_matrix(self.logits.argmax(dim=1), self.labels, len(self.classes))

    def _write_predictions(self, path: Path) -> None:
        header, columns = top_columns(self.logits, self.classes)
        of_label = self.logits.double().softmax(dim=1).gather(1, self.labels[:, None]).flatten().tolist()
        label_names = [self.classes[label] for label in self.split.labels]
        rows = zip(self.split.paths, label_names, columns, of_label, strict=True)
        write_csv(
            path,
            ["path", "label", *header, "label_probability"],
            ([picture, label, *column, probability] for picture, label, column, probability in rows),
        )

    def _write_per_class(self, confusion: Tensor, path: Path) -> None:
        scores = torch.stack(class_scores(confusion), dim=1).tolist()
        counts = confusion.sum(dim=1).tolist()
        mistaken = confusion - torch.diag(confusion.diag())
        most = [self.classes[int(row.argmax())] if row.any() else "" for row in mistaken]
        rows = ([name, n, *s, other] for name, n, s, other in zip(self.classes, counts, scores, most, strict=True))
        write_csv(path, ["class", "count", "precision", "recall", "f1", "most_confused_with"], rows)

    def _draw_mistakes(self, path: Path, most: int = 24) -> None:
        confidence, predicted = self.logits.softmax(dim=1).max(dim=1)
        wrong = (predicted != self.labels).nonzero().flatten()
        wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most]
        plots.picture_grid(
            [self.root / self.split.paths[i] for i in wrong],
            [
                f"{self.classes[predicted[i]]} {confidence[i]:.0%}\nis {self.classes[self.split.labels[i]]}"
                for i in wrong.tolist()
            ],
            path,
            title=f"most confident mistakes: {len(wrong)} of {int((predicted != self.labels).sum())}",
        )


def evaluate_split(
    classifier: Classifier, index: Index, split: str, inference: DictConfig, cache_dir: Path | None = None
) -> Evaluation:
    """Run the classifier over a split of the index; with a `cache_dir`, its backbone's part is kept there."""
    if cache_dir:
        logits = logits_from_features(classifier, index, split, inference, cache_dir)
    else:
        logits = compute_logits(classifier, index.root, index.splits[split], inference)
    return Evaluation(index.root, index.splits[split], index.classes, logits)


def print_figures(figures: dict[str, dict[str, float]]) -> None:
    """Print {split: {name: value}} as a table."""
    names = list(next(iter(figures.values())))
    table = Table("split", *names)
    for split, values in figures.items():
        table.add_row(split, *(f"{values[name]:.4f}" for name in names))
    Console().print(table)


def top_columns(logits: Tensor, classes: list[str]) -> tuple[list[str], list[list[str | float]]]:
    """The columns that every predictions file shares: the prediction, its probability, and the top five with theirs.

    Returns:
        The header and a list for each of the n pictures of logits (n, classes).
    """
    probabilities = logits.double().softmax(dim=1)
    top = probabilities.topk(min(5, len(classes)), dim=1)
    header = ["prediction", "probability"]
    for rank in range(1, top.values.shape[1] + 1):
        header += [f"top{rank}", f"top{rank}_probability"]
    rows: list[list[str | float]] = []
    for values, indices in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        ranked = [cell for p, i in zip(values, indices, strict=True) for cell in (classes[i], p)]
        rows.append([*ranked[:2], *ranked])
    return header, rows
