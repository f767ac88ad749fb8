"""What dashboards are given; and Weights & Biases without a prompt, online where that works and offline otherwise."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from sports_lightning.data.file_hashes import printable
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.reports.html import thumbnail
from sports_lightning.runs.layout import COSTS, METRICS
from sports_lightning.runs.process import is_rank_zero
from sports_lightning.storage.reachability import why_unreachable
from sports_lightning.sweeps.resume import current_sweep

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

_IMAGES = 64  # in a table


def wandb_logger(save_dir: str, log_model: bool = False, **arguments: Any) -> WandbLogger:
    """A `WandbLogger` that never asks and never waits for a server that is not there.

    `log_model` is not passed on: Lightning would log the checkpoint before it holds what is fitted afterwards (see
    log_results).
    WANDB_MODE, where set, decides. A run that goes on in its folder keeps its W&B run. `arguments` are those of
    WandbLogger and of `wandb.init`; without a `group` the jobs of a sweep are one, with the sweep folder's name.
    """
    if not arguments.get("group") and (sweep := current_sweep()):
        arguments = {**arguments, "group": sweep.name}
    os.environ.setdefault("WANDB_SILENT", "true")  # before wandb reads its settings
    reason = None if "WANDB_MODE" in os.environ else why_offline()
    if reason:
        log.info("wandb: offline (%s); later: wandb sync %s", reason, Path(save_dir) / "wandb" / "offline-run-*")
    if is_rank_zero():
        Path(save_dir).mkdir(parents=True, exist_ok=True)
    earlier = sorted(Path(save_dir, "wandb").glob("*run-*-*"))  # (offline-)run-TIME-ID
    if earlier:
        arguments = {**arguments, "id": earlier[0].name.rsplit("-", 1)[1], "resume": "allow"}
    return WandbLogger(save_dir=save_dir, mode="offline" if reason else None, **arguments)


def log_settings(loggers: list[Logger], cfg: DictConfig, provenance: dict[str, Any]) -> None:
    """Put the resolved config, and the commit that the code is at, into each dashboard.

    Weights & Biases then sums up a metric of each epoch by its best.
    """
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    if provenance:
        settings["git"] = {"commit": provenance["git"]["commit"], "dirty": provenance["git"]["dirty"]}
    for logger in loggers:
        logger.log_hyperparams(settings)
        if isinstance(logger, WandbLogger):
            for name in METRICS:
                for split in ("train", "val"):
                    logger.experiment.define_metric(f"{split}/{name}", summary="min" if name == "loss" else "max")


def log_results(
    logger: Logger,
    cfg: DictConfig,
    folder: Path,
    evaluation: Evaluation,
    metrics: dict[str, dict[str, Any]],
    provenance: dict[str, Any],
) -> None:
    """Put the best checkpoint's metrics into a dashboard, and what else it can show.

    Args:
        logger: of the dashboard.
        cfg: `conf/train.yaml`.
        folder: of the run, with its report.
        evaluation: of the split that `predictions.csv` is of.
        metrics: of `metrics.json`.
        provenance: of `run.json`.
    """
    of_best = {f"best/{split}/{name}": values[name] for split, values in metrics.items() for name in METRICS}
    costs = {name: provenance[name] for name in COSTS}
    logger.log_metrics({**of_best, **costs})
    if isinstance(logger, WandbLogger):
        import wandb

        labels, predicted = evaluation.labels.tolist(), evaluation.predicted.tolist()
        matrix = wandb.plot.confusion_matrix(y_true=labels, preds=predicted, class_names=evaluation.classes)
        report = wandb.Html((folder / "report.html").open(encoding="utf-8"), inject=False)
        logger.experiment.log(
            {"confusion_matrix": matrix, "predictions": _predictions_table(evaluation), "report": report}
        )
        if OmegaConf.select(cfg, "logger.wandb.log_model", default=False):
            artifact = wandb.Artifact(f"model-{logger.experiment.id}", "model", metadata=of_best)
            artifact.add_file(str(folder / "checkpoints" / "best.ckpt"))
            logger.experiment.log_artifact(artifact)


def _predictions_table(evaluation: Evaluation) -> "wandb.Table":
    """Predictions with their images, the most confident mistakes first, then the least confident successes."""
    import wandb

    table = wandb.Table(columns=["image", "path", "label", "prediction", "probability", "right"])
    mistakes = evaluation.most_confident_mistakes(_IMAGES)
    for i in [*mistakes, *evaluation.least_confident_successes(_IMAGES - len(mistakes))]:
        small = thumbnail(evaluation.root / evaluation.split.paths[i])
        table.add_data(
            wandb.Image(small) if small else None,
            printable(evaluation.split.paths[i]),
            evaluation.classes[evaluation.split.labels[i]],
            evaluation.classes[int(evaluation.predicted[i])],
            float(evaluation.confidence[i]),
            bool(evaluation.is_correct[i]),
        )
    return table


def why_offline() -> str | None:
    """The reason why W&B cannot be online, or None where it can."""
    import wandb
    from requests.utils import get_netrc_auth  # wandb's own dependency

    settings = wandb.setup().settings
    if not (settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)):
        return "nobody is logged in; wandb login"
    reason = why_unreachable(settings.base_url)
    return reason and f"can't reach {settings.base_url}: {reason}"
