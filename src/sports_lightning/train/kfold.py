"""The result of `sweep=kfold`: the predictions of all folds pooled, with their metrics and one report."""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sports_lightning.audit.known_suspects import find_suspects
from sports_lightning.config.overrides import format_command
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.evaluate.arrays import write_arrays
from sports_lightning.evaluate.caveats import describe_caveats
from sports_lightning.evaluate.clustered_intervals import clustered_wilson, describe_methods
from sports_lightning.evaluate.drawings import evaluation_drawings
from sports_lightning.evaluate.evaluation import metrics_with_and_without
from sports_lightning.evaluate.intervals import format_metric, metrics_without
from sports_lightning.evaluate.out_of_fold import PooledFolds, pool
from sports_lightning.evaluate.tables import write_tables
from sports_lightning.reports.decorations import draw_missing
from sports_lightning.reports.html import write_page
from sports_lightning.runs.layout import FOLDS, is_finished
from sports_lightning.runs.provenance import read_provenance
from sports_lightning.runs.resume import load_config
from sports_lightning.storage.files import DAMAGED, write_csv, write_json
from sports_lightning.sweeps.resume import FOLD
from sports_lightning.train.run_report import describe_predictions

log = logging.getLogger(__name__)

_SHARED = (
    "git", "packages", "machine", "seed", "parameters", "trainable", "flops", "precision", "frozen_pass", "batch_size",
)  # fmt: skip


def pool_folds(sweep_folder: Path, jobs: Mapping[Path, Sequence[str]]) -> bool:
    """Pool the folds of each configuration of the sweep, and print the metrics.

    The result of one configuration is written to the sweep folder, those of several to `pooled-0`, `pooled-1`, … in it.
    A configuration with an unfinished fold has no result, as a line on stderr says.

    Args:
        sweep_folder: the folder.
        jobs: {run folder: command line} of its jobs.

    Returns:
        Whether every configuration has a result.
    """
    is_complete = True
    configurations: dict[tuple[str, ...], dict[int, Path]] = {}
    for folder, overrides in jobs.items():
        rest = tuple(override for override in overrides if not override.startswith(FOLD))
        fold = next((override for override in overrides if override.startswith(FOLD)), None)
        if fold is None:
            print(f"{folder} is not a fold of this sweep, and is left out", file=sys.stderr)
            continue
        configurations.setdefault(rest, {})[int(fold.removeprefix(FOLD))] = folder
    for number, (overrides, folders) in enumerate(configurations.items()):
        folder = sweep_folder if len(configurations) == 1 else sweep_folder / f"pooled-{number}"
        settings = [override for override in overrides if not all(override in other for other in configurations)]
        try:
            _pool(folder, folders, list(overrides), " ".join(settings))
        except (*DAMAGED, UserError) as error:
            print(f"no pooled result in {folder}: {error}", file=sys.stderr)
            is_complete = False
    return is_complete


def _pool(folder: Path, folders: Mapping[int, Path], overrides: list[str], title: str) -> None:
    """Write the result of one configuration.

    Raises:
        UserError and those of `DAMAGED`: a fold is not finished, or its files are damaged.
    """
    finished = {fold: run for fold, run in folders.items() if is_finished(run)}
    expected = load_config(next(iter(finished.values())))["data"]["folds"] if finished else max(folders) + 1
    if missing := [str(fold) for fold in range(expected) if fold not in finished]:
        raise UserError(f"fold {', '.join(missing)} of {expected} is not finished")
    provenances = {fold: read_provenance(run) for fold, run in finished.items()}
    pooled = pool(finished, Path(provenances[0]["data"]["root"]))
    rows = [_fold_row(pooled, fold, run, folder, provenances[fold]) for fold, run in sorted(finished.items())]
    between = pooled.between_folds({row["fold"]: row for row in rows})
    metrics = {"test": _metrics(pooled, load_config(finished[0])["data"].get("suspects"))}
    if not _is_written(folder, metrics, rows):
        for name in ("metrics.json", "report.html", *evaluation_drawings(pooled.evaluation)):
            (folder / name).unlink(missing_ok=True)
        _write(pooled, metrics, rows, _provenance(pooled, provenances[0], rows, between), folder)
    values = {
        "metrics": metrics,
        "folds": rows,
        "between": between,
        "methods": describe_methods(metrics),
        "shown": format_metric,
        "without": metrics_without,
        "caveats": describe_caveats(metrics),
        "model": load_config(finished[0])["model"]["name"],
        "classes": pooled.evaluation.classes,
        "command": format_command("train", overrides).removesuffix(" hydra.mode=RUN"),
    }
    drawings = {
        **evaluation_drawings(pooled.evaluation),
        "report.html": lambda path: write_page(path, "kfold.html", **values, **describe_predictions(pooled.evaluation)),
    }
    draw_missing(drawings, folder)
    _print_metrics(metrics["test"], between, len(rows), title)


def _is_written(folder: Path, metrics: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether the folder holds this result; not if a fold has been trained again, or metrics are computed otherwise."""
    if not is_finished(folder) or read_provenance(folder).get("folds") != rows:
        return False
    written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return bool(written == json.loads(json.dumps(metrics)))


def _metrics(pooled: PooledFolds, suspects_file: str | None) -> dict[str, Any]:
    """The metrics of all folds, with and without suspects, and the number of groups."""
    evaluation = pooled.evaluation
    index = DatasetIndex(evaluation.root, evaluation.classes, {"test": evaluation.split})
    try:
        suspects = find_suspects(suspects_file, index).get("test")
    except UserError as error:  # the folds are finished, and the file may have been moved since
        log.warning("the pooled metrics are not given without suspects: %s", error)
        suspects = None
    return metrics_with_and_without(evaluation, None, suspects) | {"groups": len(np.unique(pooled.groups))}


def _fold_row(pooled: PooledFolds, fold: int, run: Path, folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    test = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    part = pooled.folds == fold
    low, high = clustered_wilson(pooled.evaluation.is_correct.numpy()[part], pooled.groups[part])
    job = os.path.relpath(run, folder)
    shown = {name: test[name] for name in ("count", "acc", "loss", "f1_macro")}
    return {"fold": fold, "job": job, **shown, "acc_low": low, "acc_high": high, "seconds": provenance["seconds"]}


def _provenance(
    pooled: PooledFolds, first: Mapping[str, Any], rows: list[dict[str, Any]], between: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """The content of `run.json`: what the folds share, as the first one recorded it, and how they differ."""
    data = {"root": first["data"]["root"]}
    images = {"count": len(pooled.evaluation.split), "fingerprint": pooled.fingerprint}
    return {
        **{name: first[name] for name in _SHARED if name in first},
        "data": {**data, "test": images},
        "predictions": "test",
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "folds": rows,
        "between_folds": between,
    }


def _write(
    pooled: PooledFolds,
    metrics: dict[str, Any],
    rows: list[dict[str, Any]],
    provenance: dict[str, Any],
    folder: Path,
) -> None:
    """Write the tables and arrays and then `metrics.json`, with which the result is complete."""
    folder.mkdir(exist_ok=True)
    evaluation = pooled.evaluation
    columns = {"fold": pooled.folds, "group": pooled.groups}
    write_tables(evaluation, folder, {name: values.tolist() for name, values in columns.items()})
    write_arrays(
        folder, evaluation.classes, evaluation.split, ["probabilities"], evaluation.probabilities, None, columns
    )
    write_csv(folder / FOLDS, list(rows[0]), [list(row.values()) for row in rows])
    write_json(folder / "run.json", provenance)
    write_json(folder / "metrics.json", metrics)


def _print_metrics(test: Mapping[str, Any], between: Mapping[str, Mapping[str, float]], folds: int, title: str) -> None:
    print(f"\n{folds} folds pooled, {test['count']:,} images in {test['groups']:,} groups{title and ': ' + title}")
    for name in ("acc", "loss", "f1_macro"):
        spread = f"folds: mean {between[name]['mean']:.4f}, standard deviation {between[name]['sd']:.4f}"
        if chance := between[name].get("sd_by_chance"):
            spread += f" ({chance:.4f} by chance)"
        print(f"{name:>9} {format_metric(test, name):<25} {spread}")
    for title, rest in metrics_without(test):
        print(f"{title}: accuracy {format_metric(rest, 'acc')}, loss {format_metric(rest, 'loss')}")
    print(describe_methods({"test": test}))
