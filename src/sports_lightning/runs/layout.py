"""What a run folder holds, and how its text files are read and written: whole or not at all."""

from pathlib import Path

from sports_lightning.config.monitors import METRICS as METRICS  # of metrics.json, for each split

PRUNED = "pruned.json"
# Files that show a finished run of train; they are drawn after its metrics are written.
DECORATIONS = ("confusion_matrix.png", "mistakes.png", "curves.png", "report.html", "checkpoints/MODEL_CARD.md")
COSTS = ("parameters", "flops", "latency_ms", "images_per_second", "seconds")  # of run.json


def is_finished(folder: Path) -> bool:
    """Whether the run folder is that of a finished run of train or evaluate, which write their metrics last."""
    return (folder / "metrics.json").exists()


def is_over(folder: Path) -> bool:
    """Whether nothing is left to do there: finished, or given up by a search (see sweeps)."""
    return is_finished(folder) or (folder / PRUNED).exists()


def missing_decorations(folder: Path) -> list[str]:
    """The decorations of a finished run of train that are not in its folder."""
    return [name for name in DECORATIONS if not (folder / name).exists()]


def curve(epochs: list[dict[str, str]], column: str) -> list[tuple[int, float]]:
    """(epoch from 1, metric) of the rows of `metrics.csv` that have one in `column`."""
    return [(int(row["epoch"]) + 1, float(row[column])) for row in epochs if row.get(column)]
