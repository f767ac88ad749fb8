"""The results of a training run: the metrics of its best checkpoint and the content of its files."""

import logging
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sports_lightning.audit.known_suspects import find_suspects
from sports_lightning.audit.scan import DatasetScan, find_leaks, scan_opened
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.evaluate.calibration import fit_temperature
from sports_lightning.evaluate.decisions import calibrate_decisions, decision_metrics
from sports_lightning.evaluate.evaluation import Evaluation, evaluate_split, metrics_with_and_without
from sports_lightning.evaluate.out_of_fold import write_fold
from sports_lightning.evaluate.tables import write_tables
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.predictor import measure_cost
from sports_lightning.models.classifier import Classifier, load_classifier, save_classifier
from sports_lightning.reports.decorations import short_reason
from sports_lightning.runs.checkpoint_files import load_checkpoint
from sports_lightning.runs.layout import METRICS
from sports_lightning.runs.provenance import write_provenance
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.files import read_csv, write_json
from sports_lightning.train.fit import FittedRun
from sports_lightning.train.refit_head import refit_head

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResults:
    """Everything that the files of a finished run and its dashboards show.

    Attributes:
        folder: the run folder.
        cfg: `conf/train.yaml`, resolved (see `FittedRun`).
        index: the images.
        classifier: of the best checkpoint.
        evaluation: on the split of `predictions.csv`: test, or val if the run has no test.
        metrics: the content of `metrics.json`, {split: {metric: value}}.
        provenance: the content of `run.json`, with the diff of the code.
        epochs: the rows of `metrics.csv`.
        scan: the dataset scan; None with `data.audit=false`.
    """

    folder: Path
    cfg: DictConfig
    index: DatasetIndex
    classifier: Classifier
    evaluation: Evaluation
    metrics: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    epochs: list[dict[str, str]]
    scan: DatasetScan | None

    @property
    def split(self) -> str:
        """Name of the split that was evaluated."""
        name: str = self.provenance["predictions"]
        return name


def scan_if_possible(index: DatasetIndex, data: DictConfig) -> DatasetScan | None:
    """Scan the images of a run that has been trained (see `scan_opened`); a folder that can't be read costs a warning.

    The scan reads folders that the training does not, such as those of the test split with `test=false`.
    """
    try:
        return scan_opened(index, data)
    except (UserError, OSError) as error:
        log.warning("the images were not audited, so leaks are unknown: %s", error)
        return None


def compute_results(run: FittedRun, scan: DatasetScan | None, provenance: dict[str, Any], folder: Path) -> RunResults:
    """Evaluate the best checkpoint of a run on one device.

    The metrics of "train" are those of the best epoch during training: on augmented images, with changing weights.

    Args:
        run: the fitted run.
        scan: the dataset scan, or None.
        provenance: see `collect_provenance`.
        folder: the run folder.
    """
    classifier = load_classifier(run.best_checkpoint)
    evaluations = _evaluate(run, classifier)
    suspects = find_suspects(run.cfg.data.suspects, run.index)
    metrics: dict[str, dict[str, Any]] = {
        name: metrics_with_and_without(
            evaluation, find_leaks(scan, name, classifier.spec.trained_on), suspects.get(name)
        )
        for name, evaluation in evaluations.items()
    }
    if "test" in evaluations:
        metrics["test"] |= decision_metrics(classifier, evaluations["test"])
    epochs, timings = read_csv(folder / "metrics.csv"), read_csv(folder / "timings.csv")
    best_epoch = load_checkpoint(run.best_checkpoint, mapped=True)["epoch"]
    best_row = next(row for row in epochs if int(row["epoch"]) == best_epoch)
    metrics["train"] = {name: float(best_row[f"train/{name}"]) for name in METRICS}
    split, evaluation = list(evaluations.items())[-1]
    provenance = {
        **provenance,
        **run.parameters,
        **_cost(classifier, run.cfg.inference),
        "best_epoch": best_epoch,
        "data": evaluated_images(run.index, run.cfg).provenance(),
        "predictions": split,
        "cached_features": run.frozen is not None,
        "precision": asdict(run.precision),
        **({"frozen_pass": run.frozen_pass.to_dict()} if run.frozen_pass else {}),
        "batch_size": run.cfg.data.batch_size,
        "images_per_second": statistics.median(float(row["images_per_second"]) for row in timings),
        "seconds": round(run.seconds_before + time.monotonic() - run.started, 1),
        "interruptions": run.interruptions,
    }
    return RunResults(folder, run.cfg, run.index, classifier, evaluation, metrics, provenance, epochs, scan)


def write_results(results: RunResults) -> None:
    """Write the tables, `run.json` and then `metrics.json`, with which the run is finished."""
    write_tables(results.evaluation, results.folder)
    if results.cfg.data.folds:
        write_fold(results.evaluation, results.folder)
    write_provenance(results.provenance, results.index.rows(), results.folder)
    write_json(results.folder / "metrics.json", results.metrics)


def evaluated_images(index: DatasetIndex, cfg: DictConfig) -> DatasetIndex:
    """The images of the final evaluation: all of val and test, or as many as `trainer.limit_test_batches` allows.

    Args:
        index: the images of the run.
        cfg: its config, in which `data.batch_size` is a number; unlike `inference.batch_size` it stays on resume.
    """
    limit = cfg.trainer.get("limit_test_batches")  # not in configs of version 0.1
    if limit is None:
        return index
    splits = dict(index.splits)
    for name in {"val", "test"} & set(splits):
        batches = -(-len(splits[name]) // cfg.data.batch_size)
        batches = max(1, int(batches * limit)) if isinstance(limit, float) else limit
        splits[name] = splits[name].spread(batches * cfg.data.batch_size)
    return replace(index, splits=splits)


def _evaluate(run: FittedRun, classifier: Classifier) -> dict[str, Evaluation]:
    """Evaluate on val, and on test if there is one; what is fitted after training is saved before the test.

    If the run is interrupted after this point, resuming it repeats that from the same weights, with the same outcome.
    """
    cfg, inference = run.cfg, run.cfg.inference
    index = evaluated_images(run.index, cfg)
    classifier.spec = replace(classifier.spec, temperature=1.0)
    if cfg.refit:
        _, inference = halve_batch_on_out_of_memory(
            lambda settings: refit_head(classifier, run.index, cfg, settings, run.frozen), inference
        )
    cached_part = (run.frozen, resolve_cache_dir(cfg.data)) if run.frozen else None
    val, inference = halve_batch_on_out_of_memory(
        lambda settings: evaluate_split(classifier, index, "val", settings, cached_part), inference
    )
    if cfg.calibrate:
        temperature = fit_temperature(val.logits, val.labels)
        classifier.spec = replace(classifier.spec, temperature=temperature)
        val = replace(val, logits=val.logits / temperature)
    calibrate_decisions(classifier, val)
    save_classifier(classifier, run.best_checkpoint)
    if "test" not in run.index.splits:
        return {"val": val}
    test, _ = halve_batch_on_out_of_memory(
        lambda settings: evaluate_split(classifier, index, "test", settings, cached_part), inference
    )
    return {"val": val, "test": test}


def _cost(classifier: Classifier, inference: DictConfig) -> dict[str, float]:
    """The cost of one image; empty if it cannot be measured, because the metrics must not be lost."""
    try:
        return measure_cost(classifier, inference)
    except Exception as error:  # whatever a model's code or a profiler raises
        log.warning("flops and latency were not measured: %s", short_reason(error))
        return {}
