"""The files of a run folder that other modules look for, and the names of metrics and costs."""

from pathlib import Path

from sports_lightning.config.monitors import METRICS as METRICS  # in metrics.json, per split
from sports_lightning.errors import UserError

PARTS = "parts"  # folder of the finished parts of a prediction, until its tables are written
PRUNED = "pruned.json"  # written if a search stopped the run early
SPLIT_FILE, SPLIT_INFO = "split.csv", "split.json"  # the split that the dataset lacks, and how it was cut
MODEL_CARD = "MODEL_CARD.md"  # next to a checkpoint
FOLDS = "folds.csv"  # next to the pooled predictions of a cross-validation, one row per fold
# Files of a finished run of train that are drawn after its metrics are written.
DECORATIONS = ("confusion_matrix.png", "mistakes.png", "curves.png", "report.html", "checkpoints/MODEL_CARD.md")
COSTS = ("parameters", "flops", "latency_ms", "images_per_second", "seconds")  # in run.json


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a finished run of train or evaluate."""
    return (folder / "metrics.json").exists()


def check_finished(folder: Path) -> None:
    """Raise UserError unless the folder holds a finished run."""
    if not is_finished(folder):
        raise UserError(f"run={folder} holds no finished run of train: pass one such as outputs/train/RUN")


def has_ended(folder: Path) -> bool:
    """Whether the run is finished or was pruned by a search."""
    return is_finished(folder) or (folder / PRUNED).exists()


def missing_decorations(folder: Path) -> list[str]:
    """The decorations of a finished run of train that are not in its folder."""
    return [name for name in DECORATIONS if not (folder / name).exists()]


def curve(epochs: list[dict[str, str]], column: str) -> list[tuple[int, float]]:
    """(epoch from 1, value) of each row of `metrics.csv` with a value in `column`."""
    return [(int(row["epoch"]) + 1, float(row[column])) for row in epochs if row.get(column)]
