"""The predictions for many images, and the files that show them."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor

from sports_lightning.data.dataset_index import Split
from sports_lightning.data.file_hashes import printable
from sports_lightning.data.value_range import ValueRange
from sports_lightning.evaluate.arrays import write_arrays
from sports_lightning.evaluate.decisions import NONE_OF_THESE, Decisions
from sports_lightning.evaluate.tables import top5_columns
from sports_lightning.reports import plots
from sports_lightning.storage.files import write_csv
from sports_lightning.videos.chapter_files import clock
from sports_lightning.videos.segments import Timeline

GRID_SIZE = 36  # images in predictions.png
VIDEO_COLUMNS = ("seconds", "shares", "longest")
_PRINTED = 50  # images printed, and as many unreadable files


@dataclass(frozen=True)
class Predictions:
    """Logits (n, classes) float32 for `paths`, and the reason for each file that could not be read.

    Attributes:
        value_range: the values of 16- and 32-bit pixels that are black and white.
        save: which of "probabilities" and "features" to write as arrays.
        features: (n, features) float32, or None.
        decisions: rejection scores and prediction sets of the n images; None: none were asked for.
        videos: what the videos among the input show.
    """

    paths: list[str]
    logits: Tensor
    classes: list[str]
    unreadable: dict[str, str]
    value_range: ValueRange | None = None
    save: Sequence[str] = ()
    features: Tensor | None = None
    decisions: Decisions | None = None
    videos: Sequence[Timeline] = ()

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
        blank = [""] * len(more)
        of_videos = list(VIDEO_COLUMNS) if self.videos else []
        no_video = [""] * len(of_videos)
        rows = [
            [path, *cells, *no_video, ""]
            for path, cells in zip(self.paths, _joined(columns, more.values()), strict=True)
        ]
        rows += [[video.path, *_ranked(video, len(header)), *blank, *_summary(video), ""] for video in self.videos]
        rows += [[path, *[""] * len(header), *blank, *no_video, reason] for path, reason in self.unreadable.items()]
        write_csv(folder / "predictions.csv", ["path", *header, *more, *of_videos, "error"], rows)
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
        if not self.paths:
            self._print_unreadable(Console())
            return
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
        self._print_unreadable(console)

    def _print_unreadable(self, console: Console) -> None:
        for path, reason in islice(self.unreadable.items(), _PRINTED):
            console.print(f"unreadable: {_shown(path)}: {escape(reason)}", soft_wrap=True)
        if len(self.unreadable) > _PRINTED:
            console.print(f"and {len(self.unreadable) - _PRINTED:,} more that are unreadable")


def _ranked(video: Timeline, count: int) -> list[str | float]:
    """What fills a video in the columns of `top5_columns`: the label with the largest share of its time, with the mean
    probability there, and the labels with the largest shares.
    """
    label = next(iter(video.shares))
    own = [segment for segment in video.segments if segment.label == label]
    probability = sum(segment.probability * segment.seconds for segment in own)
    cells: list[str | float] = [label, probability / sum(segment.seconds for segment in own)]
    for name, share in video.shares.items():
        cells += [name, share]
    return [*cells, *[""] * count][:count]


def _summary(video: Timeline) -> list[str | float]:
    """The cells of `VIDEO_COLUMNS`."""
    longest = video.longest
    shares = {label: round(share, 4) for label, share in video.shares.items()}
    span = f"{clock(longest.start)}–{clock(longest.end)} {longest.label}"
    return [video.seconds, json.dumps(shares, ensure_ascii=False), span]


def _joined(rows: list[list[Any]], columns: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """`rows` with the values of further columns at their end."""
    return [[*row, *cells] for row, *cells in zip(rows, *columns, strict=True)]


def _shown(path: str) -> str:
    return escape(printable(min(path, os.path.relpath(path), key=len)))
