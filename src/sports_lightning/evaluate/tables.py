"""Tables of an evaluation: `predictions.csv`, `per_class.csv` and the metrics on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from sports_lightning.evaluate.caveats import describe_caveats
from sports_lightning.evaluate.clustered_intervals import describe_methods
from sports_lightning.evaluate.evaluation import ClassMetrics, Evaluation
from sports_lightning.evaluate.intervals import format_metric, metrics_without
from sports_lightning.evaluate.metrics import best_classes
from sports_lightning.storage.files import write_csv


def write_tables(evaluation: Evaluation, folder: Path, more: Mapping[str, Sequence[int]] | None = None) -> None:
    """Write `predictions.csv` (one row per image) and `per_class.csv` (one row per class) into `folder`.

    Where several images are near copies or of one scene, `predictions.csv` says so in the column `group`, by which
    `compare` tests.

    Args:
        evaluation: of n images.
        folder: the run folder.
        more: {name: n values} of further columns of `predictions.csv`.
    """
    more = dict(more or {})
    if evaluation.groups is not None:
        more.setdefault("group", evaluation.groups.tolist())
    header, columns = top5_columns(evaluation.probabilities, evaluation.classes)
    label_names = [evaluation.classes[label] for label in evaluation.split.labels]
    probabilities = evaluation.label_probabilities.tolist()
    rows = zip(evaluation.split.paths, label_names, columns, probabilities, *more.values(), strict=True)
    write_csv(
        folder / "predictions.csv",
        ["path", "label", *header, "label_probability", *more],
        ([path, label, *column, *rest] for path, label, column, *rest in rows),
    )
    header = ["class", *(field.name for field in fields(ClassMetrics)[1:])]
    write_csv(folder / "per_class.csv", header, map(astuple, evaluation.per_class()))


def top5_columns(probabilities: Tensor, classes: list[str]) -> tuple[list[str], list[list[str | float]]]:
    """The columns that every predictions file shares: the prediction, its probability, and the top five with theirs.

    Args:
        probabilities: (n, classes).
        classes: their names.

    Returns:
        The header, and one list of cells per image.
    """
    best = best_classes(probabilities, 5)
    header = ["prediction", "probability"]
    for rank in range(1, best.shape[1] + 1):
        header += [f"top{rank}", f"top{rank}_probability"]
    rows: list[list[str | float]] = []
    for values, indices in zip(probabilities.gather(1, best).tolist(), best.tolist(), strict=True):
        ranked = [cell for p, i in zip(values, indices, strict=True) for cell in (classes[i], p)]
        rows.append([*ranked[:2], *ranked])
    return header, rows


def print_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Print {split: {name: value}}: one row per metric, with its 95 % interval if it has one."""
    metrics = _with_columns_without(metrics)
    caption = describe_methods(metrics) if any("ci95" in values for values in metrics.values()) else None
    table = Table("", *metrics, caption=caption)
    numbers = (name for values in metrics.values() for name, value in values.items() if isinstance(value, int | float))
    names = list(dict.fromkeys(numbers))  # of all splits
    for name in names:
        table.add_row(name, *(format_metric(values, name, digits=3).replace(" ", "\n") for values in metrics.values()))
    console = Console()
    console.print(table)
    for line in describe_caveats(metrics):
        console.print(escape(line), soft_wrap=True)


def _with_columns_without(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Add the metrics without leaks and without suspects: those of test, or of the only split there is."""
    columns: dict[str, Mapping[str, Any]] = {}
    for split, values in metrics.items():
        columns[split] = values
        if split == "test" or len(metrics) == 1:
            columns |= dict(metrics_without(values))
    return columns
