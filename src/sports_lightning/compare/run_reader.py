"""Reads the folders of finished runs for a comparison."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sports_lightning.errors import UserError
from sports_lightning.runs.layout import FOLDS, is_finished
from sports_lightning.runs.provenance import flatten, read_provenance
from sports_lightning.runs.resume import load_config, load_hydra_config
from sports_lightning.storage.files import DAMAGED, read_csv

# Settings that do not influence the result: what a run writes and where, how it is tracked, how data is loaded.
_IGNORED_SETTINGS = (
    "logger.",
    "resume.",
    "save.",
    "data.root.",
    "data.audit.",
    "data.cache.",
    "data.cache_dir.",
    "data.num_workers.",
    "inference.num_workers.",
)


@dataclass(frozen=True)
class Run:
    """The content of a run folder of `train` or `evaluate`, or of the pooled folds of a `sweep=kfold`.

    Attributes:
        name: the folder relative to the closest folder that all runs share.
        folder: the run folder.
        config: the settings as composed, {dotted key: value}.
        metrics: the content of `metrics.json`, {split: {metric: value}}.
        provenance: the content of `run.json`.
        epochs: the rows of `metrics.csv`; empty for an evaluation.
        split: the split that `predictions.csv` is about.
        is_correct: for each image of `split`, in order, whether it is predicted correctly.
        folds, groups: of each image, in a cross-validation whose folds are pooled; else empty and None.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    epochs: list[dict[str, str]]
    split: str
    is_correct: list[bool]
    folds: list[int] = field(default_factory=list)
    groups: list[int] | None = None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the predicted images."""
        return str(self.provenance["data"][self.split]["fingerprint"])


def read_runs(folders: Sequence[str | Path]) -> tuple[list[Run], dict[Path, str]]:
    """Read the finished runs of train and evaluate at or below `folders`.

    Returns:
        The runs, and {folder: reason} of the runs that were skipped.

    Raises:
        UserError: a folder does not exist, or there is no finished run.
    """
    finished, skipped = _find_runs(folders)
    parent = os.path.commonpath([folder.parent for folder in finished]) if finished else ""
    runs = []
    for folder in finished:
        try:
            runs.append(_read_run(folder, os.path.relpath(folder, parent)))
        except (*DAMAGED, UserError) as error:
            skipped[folder] = f"incomplete, or written by another version ({type(error).__name__}: {error})"
    if not runs:
        reasons = "".join(f"; {folder}: {reason}" for folder, reason in list(skipped.items())[:1])
        names = ", ".join(map(str, folders))
        raise UserError(f"no finished run in {names}: train and evaluate write metrics.json{reasons}")
    return runs, skipped


def _find_runs(folders: Sequence[str | Path]) -> tuple[list[Path], dict[Path, str]]:
    """The absolute paths of the finished runs, and {folder: reason} of the others."""
    finished: dict[Path, Path] = {}  # by their real paths, since a run may have several names
    skipped: dict[Path, str] = {}
    in_folds: set[Path] = set()  # runs whose predictions are pooled
    for name in folders:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: pass run folders, or folders of runs such as outputs/train")
        for table in sorted(folder.glob(f"**/{FOLDS}")):
            pooled = table.parent.absolute()
            if is_finished(pooled):
                try:
                    in_folds |= {(pooled / row["job"]).resolve() for row in read_csv(table)}
                except DAMAGED:  # another table of this name
                    continue
                finished.setdefault(pooled.resolve(), pooled)
        configs = sorted(folder.glob("**/.hydra/config.yaml"))
        others = 0  # of other commands
        for config in configs:
            run = config.parents[1].absolute()
            if run.resolve() in in_folds:
                continue
            try:
                command = OmegaConf.select(OmegaConf.create(load_hydra_config(run)), "hydra.job.config_name")
            except UserError as error:
                skipped[run] = str(error)
                continue
            if command is None:
                skipped[run] = f"{run}/.hydra/hydra.yaml does not say which command the run is of"
            elif command not in ("train", "evaluate"):
                others += 1
            elif is_finished(run):
                finished.setdefault(run.resolve(), run)
            else:
                skipped[run] = "not finished"
        if others == len(configs):
            skipped[folder] = "no run of train or evaluate in it"
    return list(finished.values()), skipped


def _read_run(folder: Path, name: str) -> Run:
    """Read one run.

    Raises:
        UserError and those of `DAMAGED`: the folder is incomplete or damaged.
    """
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    provenance = read_provenance(folder)
    table = folder / "metrics.csv"
    predictions = read_csv(folder / "predictions.csv")
    is_pooled = (folder / FOLDS).exists()
    run = Run(
        name=name,
        folder=folder,
        config=_settings(folder / provenance["folds"][0]["job"] if is_pooled else folder, is_pooled),
        metrics=metrics,
        provenance=provenance,
        epochs=read_csv(table) if table.exists() else [],
        split=provenance["predictions"],
        is_correct=[row["prediction"] == row["label"] for row in predictions],
        folds=[int(row["fold"]) for row in predictions] if is_pooled else [],
        groups=[int(row["group"]) for row in predictions] if predictions and "group" in predictions[0] else None,
    )
    if len(run.is_correct) != provenance["data"][run.split]["count"] or run.split not in metrics:
        raise ValueError(f"predictions.csv does not hold the images of {run.split}")
    return run


def _settings(folder: Path, is_fold: bool) -> dict[str, Any]:
    """{dotted key: value} of the settings that influence the result of a run, or of all folds that it is one of."""
    ignored = (*_IGNORED_SETTINGS, "data.fold.") if is_fold else _IGNORED_SETTINGS
    return {key: value for key, value in flatten(load_config(folder)).items() if not f"{key}.".startswith(ignored)}
