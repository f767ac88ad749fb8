"""What a training run leaves behind: the best checkpoint's metrics, with everything that they depend on."""

import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from sports_lightning.audit.scan import DatasetScan, find_leaks
from sports_lightning.evaluate.calibration import fit_temperature
from sports_lightning.evaluate.evaluation import (
    Evaluation,
    evaluate_split,
    metrics_with_and_without_leaks,
    print_metrics,
)
from sports_lightning.inference.predictor import measure_cost
from sports_lightning.models.classifier import Classifier, load_classifier, save_classifier
from sports_lightning.reports import plots
from sports_lightning.runs.checkpoint_files import load_checkpoint
from sports_lightning.runs.layout import METRICS
from sports_lightning.runs.process import seconds_since_start
from sports_lightning.runs.provenance import write_provenance
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.files import read_csv, write_json
from sports_lightning.train.fit import FittedRun
from sports_lightning.train.loggers import log_results
from sports_lightning.train.refit_head import refit_head
from sports_lightning.train.run_report import write_report


def write_results(
    cfg: DictConfig, run: FittedRun, seen: DatasetScan | None, provenance: dict[str, Any], folder: Path
) -> None:
    """Evaluate the best checkpoint on one device, and write and log what `train` promises.

    `train` metrics are those that the best epoch had while it trained: augmented images, changing weights.

    Args:
        cfg: `conf/train.yaml`.
        run: what was fitted.
        seen: what a look through the data has told, if it was looked at.
        provenance: what the run depends on (see record).
        folder: the run's.
    """
    torch.set_float32_matmul_precision("highest")  # evaluation is the same whatever the training ran in
    classifier = load_classifier(run.best_checkpoint)
    evaluations = _evaluate(cfg, run, classifier)
    metrics: dict[str, dict[str, Any]] = {
        name: metrics_with_and_without_leaks(evaluation, find_leaks(seen, name, classifier.spec.trained_on))
        for name, evaluation in evaluations.items()
    }
    predicted = list(evaluations)[-1]
    epochs, timings = read_csv(folder / "metrics.csv"), read_csv(folder / "timings.csv")
    epoch = load_checkpoint(run.best_checkpoint, mapped=True)["epoch"]
    of_best = next(row for row in epochs if int(row["epoch"]) == epoch)
    metrics["train"] = {name: float(of_best[f"train/{name}"]) for name in METRICS}
    provenance = {
        **provenance,
        **run.parameters,
        **measure_cost(classifier, cfg.inference),
        "best_epoch": epoch,
        "predictions": predicted,
        "cached_features": run.frozen is not None,
        "precision": asdict(run.numerics),
        "batch_size": cfg.data.batch_size,
        "images_per_second": statistics.median(float(row["images_per_second"]) for row in timings),
        "seconds": round(run.seconds_before + seconds_since_start(), 1),
        "interruptions": run.interruptions,
    }
    evaluations[predicted].write(folder)
    plots.curves(epochs, folder / "curves.png")
    write_provenance(provenance, run.index.rows(), folder)
    write_report(cfg, run, folder, classifier, seen, evaluations[predicted], metrics, provenance, epochs)
    write_json(folder / "metrics.json", metrics)  # the last file: a run that has it is finished
    for logger in run.loggers:
        log_results(logger, cfg, folder, evaluations[predicted], metrics, provenance)
        logger.finalize("success")
    print_metrics(metrics)


def _evaluate(cfg: DictConfig, run: FittedRun, classifier: Classifier) -> dict[str, Evaluation]:
    """The best checkpoint on val and on test, if there is one; what is fitted after training is saved in between."""
    # A run that is interrupted from here on fits both once more when it goes on: from the start, for the same outcome.
    classifier.spec = replace(classifier.spec, temperature=1.0)
    if cfg.refit:
        refit_head(classifier, run.index, cfg, run.frozen)
    kept = (run.frozen, resolve_cache_dir(cfg.data)) if run.frozen else None
    val = evaluate_split(classifier, run.index, "val", cfg.inference, kept)
    if cfg.calibrate:
        temperature = fit_temperature(val.logits, val.labels)
        classifier.spec = replace(classifier.spec, temperature=temperature)
        val = replace(val, logits=val.logits / temperature)
    if cfg.refit or cfg.calibrate:
        save_classifier(classifier, run.best_checkpoint)
    if "test" not in run.index.splits:
        return {"val": val}
    return {"val": val, "test": evaluate_split(classifier, run.index, "test", cfg.inference, kept)}
