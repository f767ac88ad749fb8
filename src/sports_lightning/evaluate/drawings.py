"""Drawings of an evaluation: `confusion_matrix.png` and `mistakes.png`."""

from collections.abc import Callable
from pathlib import Path

from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.reports import plots

_MISTAKES = 24


def evaluation_drawings(evaluation: Evaluation) -> dict[str, Callable[[Path], None]]:
    """{file name: function that draws it}, for `draw_missing`."""
    return {
        "confusion_matrix.png": lambda path: plots.confusion_matrix(evaluation.confusion, evaluation.classes, path),
        "mistakes.png": lambda path: _draw_mistakes(evaluation, path),
    }


def _draw_mistakes(evaluation: Evaluation, path: Path) -> None:
    mistakes = evaluation.most_confident_mistakes(_MISTAKES)
    plots.image_grid(
        [evaluation.root / evaluation.split.paths[i] for i in mistakes],
        [evaluation.caption(i) for i in mistakes],
        path,
        value_range=evaluation.value_range,
        title=f"most confident mistakes: {len(mistakes)} of {int((~evaluation.is_correct).sum())}",
    )
