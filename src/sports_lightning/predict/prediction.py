"""Predictions for unlabeled images."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor

from sports_lightning.data.dataset_index import Split
from sports_lightning.data.file_hashes import FileCheck, check_files, printable, report_first_images
from sports_lightning.data.image_folder import list_images
from sports_lightning.data.leftovers import LEFTOVER, describe_ignored, is_leftover
from sports_lightning.data.value_range import Setting, ValueRange, value_range_for_checkpoint
from sports_lightning.errors import UserError
from sports_lightning.evaluate.arrays import compute_features, write_arrays
from sports_lightning.evaluate.decisions import NONE_OF_THESE, Decisions, DecisionSettings, decide
from sports_lightning.evaluate.tables import top5_columns
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.models.classifier import Classifier
from sports_lightning.reports import plots
from sports_lightning.storage.files import write_csv

log = logging.getLogger(__name__)

GRID_SIZE = 36  # images in predictions.png
_PRINTED = 50  # images printed, and as many unreadable files


def find_inputs(patterns: Sequence[str]) -> list[str]:
    """The files that `input` names, each once. One line of the log counts the files in folders that are not read.

    Args:
        patterns: files, folders (the images below them), or globs (`**` too).

    Raises:
        UserError: one of them names no images.
    """
    ignored: Counter[str] = Counter()
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = _matches(os.path.expanduser(pattern), ignored)
        if not paths:
            others = f" ({described})" if (described := describe_ignored(ignored)) else ""
            raise UserError(f"input={pattern} matches no images{others}: pass a file, a folder or a quoted glob")
        found |= dict.fromkeys(paths)
    if described := describe_ignored(ignored):
        log.info("skipped: %s", described)
    return list(found)


def _matches(pattern: str, ignored: Counter[str]) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        return [os.path.join(pattern, name) for name in list_images(Path(pattern), ignored)]
    named = set(pattern.split(os.sep))
    files = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    found = [path for path in files if not any(map(is_leftover, set(path.split(os.sep)) - named))]
    ignored[LEFTOVER] += len(files) - len(found)
    return found


@dataclass(frozen=True)
class Predictions:
    """Logits (n, classes) float32 for `paths`, and the reason for each file that could not be read.

    Attributes:
        value_range: the values of 16- and 32-bit pixels that are black and white.
        save: which of "probabilities" and "features" to write as arrays.
        features: (n, features) float32, or None.
        decisions: rejection scores and prediction sets of the n images; None: none were asked for.
    """

    paths: list[str]
    logits: Tensor
    classes: list[str]
    unreadable: dict[str, str]
    value_range: ValueRange | None = None
    save: Sequence[str] = ()
    features: Tensor | None = None
    decisions: Decisions | None = None

    def ranked(self, count: int | None = None) -> tuple[list[str], list[list[str | float]]]:
        """The columns of `top5_columns` for the first `count` images; rejected images get another prediction."""
        header, rows = top5_columns(self.logits[:count].double().softmax(dim=1), self.classes)
        if self.decisions and self.decisions.rejected is not None:
            for row, is_rejected in zip(rows, self.decisions.rejected, strict=False):
                row[0] = NONE_OF_THESE if is_rejected else row[0]
        return header, rows

    def write(self, folder: Path) -> None:
        """Write `predictions.csv`, with the unreadable files and their reasons last, and `predictions.npz`."""
        header, columns = self.ranked()
        more = self.decisions.columns(self.classes) if self.decisions else {}
        rows = [[path, *cells, ""] for path, cells in zip(self.paths, _joined(columns, more.values()), strict=True)]
        rows += [[path, *[""] * (len(header) + len(more)), reason] for path, reason in self.unreadable.items()]
        write_csv(folder / "predictions.csv", ["path", *header, *more, "error"], rows)
        probabilities = self.logits.double().softmax(dim=1)
        split = Split(self.paths, [-1] * len(self.paths))
        write_arrays(folder, self.classes, split, self.save, probabilities, self.features)

    def draw(self, path: Path) -> None:
        """Draw the first images with their predictions."""
        shown = min(len(self.paths), GRID_SIZE)
        _, columns = self.ranked(shown)
        plots.image_grid(
            [Path(path) for path in self.paths[:shown]],
            [f"{column[0]}\n{column[1]:.0%}" for column in columns],
            path,
            self.value_range,
            title=f"{shown} of {len(self.paths)} images",
        )

    def print(self) -> None:
        """Print the first predictions as a table, with paths relative to the folder that all images share."""
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in self.paths])
        table = Table(Column("image", overflow="fold"), "prediction", "probability", "second")
        _, columns = self.ranked(_PRINTED)
        for path, (name, probability, *ranked) in zip(self.paths[:_PRINTED], columns, strict=True):
            second, its_probability = ranked[2:4]
            table.add_row(
                escape(printable(os.path.relpath(path, folder))),
                escape(printable(str(name))),
                f"{probability:.1%}",
                f"{escape(printable(str(second)))} {its_probability:.1%}",
            )
        console = Console()
        console.print(f"{len(self.paths):,} readable in {_shown(folder)}", soft_wrap=True)
        console.print(table)
        if len(self.paths) > _PRINTED:
            console.print(f"and {len(self.paths) - _PRINTED:,} more in predictions.csv")
        for path, reason in islice(self.unreadable.items(), _PRINTED):
            console.print(f"unreadable: {_shown(path)}: {escape(reason)}", soft_wrap=True)
        if len(self.unreadable) > _PRINTED:
            console.print(f"and {len(self.unreadable) - _PRINTED:,} more that are unreadable")


def _joined(rows: list[list[Any]], columns: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """`rows` with the values of further columns at their end."""
    return [[*row, *cells] for row, *cells in zip(rows, *columns, strict=True)]


def _shown(path: str) -> str:
    return escape(printable(min(path, os.path.relpath(path), key=len)))


def predict_images(
    classifier: Classifier,
    paths: list[str],
    inference: DictConfig,
    value_range: Setting = "auto",
    save: Sequence[str] = (),
    settings: DecisionSettings | None = None,
) -> Predictions:
    """Predict the images at `paths`; files that cannot be read are listed in the result.

    Args:
        classifier: its value range is set to the one in use.
        paths: the files.
        inference: `conf/inference/*.yaml`.
        value_range: `data.value_range`; "auto" uses that of the classifier.
        save: see `Predictions`.
        settings: which decisions are made beyond the probabilities.

    Raises:
        UserError: none of the files can be read, a model that has no features, or a classifier that cannot decide so.
    """
    settings = settings or DecisionSettings()
    settings.check(classifier)
    checks = check_files(Path(), paths)
    report_first_images(checks)
    unreadable = {path: check.problem for path, check in zip(paths, checks, strict=True) if check.problem}
    unreadable |= _set_value_range(classifier, value_range, dict(zip(paths, checks, strict=True)))
    readable = [path for path in paths if path not in unreadable]
    if not readable:
        path, reason = next(iter(unreadable.items()))
        raise UserError(f"none of the {len(paths)} files can be read as an image; {printable(path)}: {reason}")
    split = Split(readable, [-1] * len(readable))
    features = compute_features(classifier, Path(), split, save, inference)
    logits, _ = halve_batch_on_out_of_memory(
        lambda batches: compute_logits(classifier, Path(), split, batches), inference
    )
    decisions = decide(classifier, logits, settings)
    range_in_use = classifier.preprocessing.value_range
    return Predictions(readable, logits, classifier.spec.classes, unreadable, range_in_use, save, features, decisions)


def _set_value_range(classifier: Classifier, setting: Setting, checks: dict[str, FileCheck]) -> dict[str, str]:
    """Set the value range of the classifier, and return {path: reason} of the 16- and 32-bit images that have none."""
    unreadable: dict[str, str] = {}
    stored = classifier.preprocessing.value_range
    for kind in sorted({check.high_depth for check in checks.values()} - {""}):
        files = {path: check for path, check in checks.items() if check.high_depth == kind}
        try:
            found = value_range_for_checkpoint(stored, setting, list(files.values()), "the input")
            classifier.set_value_range(found or classifier.preprocessing.value_range)
        except UserError as error:
            unreadable |= dict.fromkeys(files, str(error))
    return unreadable
