"""The results of a run in its dashboards."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from sports_lightning.data.file_hashes import printable
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.reports.decorations import short_reason
from sports_lightning.reports.html import thumbnail
from sports_lightning.runs.layout import COSTS, METRICS
from sports_lightning.train.results import RunResults

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

_IMAGES = 64  # rows of the predictions table


def close_loggers(loggers: list[Logger], results: RunResults) -> None:
    """Log the results to each dashboard and close it. A dashboard that fails only causes a warning."""
    for logger in loggers:
        with _warns_on_error(logger):
            log_results(logger, results)
        with _warns_on_error(logger):
            logger.finalize("success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # waits for the upload, at most WANDB_FINISH_TIMEOUT seconds


@contextmanager
def _warns_on_error(logger: Logger) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a dashboard's client raises
        log.warning("%s did not get all results: %s", type(logger).__name__, short_reason(error))


def log_results(logger: Logger, results: RunResults) -> None:
    """Log the metrics and costs of the best checkpoint; to Weights & Biases also predictions and the report."""
    best = {f"best/{split}/{name}": values[name] for split, values in results.metrics.items() for name in METRICS}
    costs = {name: results.provenance[name] for name in COSTS if name in results.provenance}
    logger.log_metrics({**best, **costs})
    if isinstance(logger, WandbLogger):
        _log_to_wandb(logger, results, best)


def _log_to_wandb(logger: WandbLogger, results: RunResults, best: dict[str, float]) -> None:
    import wandb

    evaluation, report = results.evaluation, results.folder / "report.html"
    labels, predicted = evaluation.labels.tolist(), evaluation.predicted.tolist()
    matrix = wandb.plot.confusion_matrix(y_true=labels, preds=predicted, class_names=evaluation.classes)
    shown: dict[str, Any] = {"confusion_matrix": matrix, "predictions": _predictions_table(evaluation)}
    if report.exists():
        shown["report"] = wandb.Html(report.read_text(encoding="utf-8"), inject=False)
    logger.experiment.log(shown)
    if OmegaConf.select(results.cfg, "logger.wandb.log_model", default=False):
        artifact = wandb.Artifact(f"model-{logger.experiment.id}", "model", metadata=best)
        artifact.add_file(str(results.folder / "checkpoints" / "best.ckpt"))
        logger.experiment.log_artifact(artifact)


def _predictions_table(evaluation: Evaluation) -> "wandb.Table":
    """Predictions with their images: the most confident mistakes, then the least confident successes."""
    import wandb

    table = wandb.Table(columns=["image", "path", "label", "prediction", "probability", "correct"])
    mistakes = evaluation.most_confident_mistakes(_IMAGES)
    for i in [*mistakes, *evaluation.least_confident_successes(_IMAGES - len(mistakes))]:
        small = thumbnail(evaluation.root / evaluation.split.paths[i], evaluation.value_range)
        table.add_data(
            wandb.Image(small) if small else None,
            printable(evaluation.split.paths[i]),
            evaluation.classes[evaluation.split.labels[i]],
            evaluation.classes[int(evaluation.predicted[i])],
            float(evaluation.confidence[i]),
            bool(evaluation.is_correct[i]),
        )
    return table
