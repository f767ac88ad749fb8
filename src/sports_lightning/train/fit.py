"""Fit a classifier: data → model → Lightning trainer → best checkpoint."""

import logging
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import Logger

from sports_lightning.cli.process_setup import environment
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.inference.devices import select_device
from sports_lightning.inference.frozen_part import FrozenPart
from sports_lightning.inference.frozen_pass import FrozenPass
from sports_lightning.inference.predictor import build_inference_trainer
from sports_lightning.inference.training_features import cached_part, use_cached_features
from sports_lightning.models.freezing import count_parameters
from sports_lightning.runs.changed_settings import store_changes
from sports_lightning.runs.process import PROCESS_START
from sports_lightning.runs.provenance import without_diff
from sports_lightning.runs.resume import load_original_config, run_settings
from sports_lightning.runs.signals import deferred
from sports_lightning.sweeps.pruning import ReportToSearch
from sports_lightning.train.auto_values import run_batch_size, run_pass, run_precision, with_batch_size
from sports_lightning.train.batch_size import BATCH_SIZE, check_disk_space, explain_batch_errors
from sports_lightning.train.build import build_data, build_module, resolve_with_preprocessing
from sports_lightning.train.last_checkpoint import ResumePoint, check_not_over, check_unchanged, read_resume_point
from sports_lightning.train.loggers import build_loggers, log_settings, open_loggers
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.pass_choice import FROZEN_PASS, PassChoice
from sports_lightning.train.precision import PRECISION, PrecisionChoice
from sports_lightning.train.refit_head import check_head
from sports_lightning.train.trainer import (
    RunCallbacks,
    build_callbacks,
    build_trainer,
    choose_strategy,
    count_processes,
    resume_may_round_differently,
    stop_together,
    training_device,
)
from sports_lightning.train.validation_schedule import ValidateAtEnd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedRun:
    """The outcome of fitting, from which the results are computed (see finish).

    Attributes:
        cfg: `conf/train.yaml` with every "auto" replaced by the value in use.
        index: the images.
        best_checkpoint: path of the checkpoint with the best monitored metric.
        frozen: the frozen part whose outputs training read from the cache; None: the whole model ran in every step.
        precision: the choice and its reason.
        frozen_pass: how the outputs of the frozen part were computed, and the reason; None if it has none.
        parameters: the number of all parameters, under "parameters", and of those that were trained, under "trainable".
        loggers: Lightning's, not closed yet.
        interruptions: how often the run was interrupted and resumed.
        started: when the run was started or resumed, by `time.monotonic()`.
        seconds_before: wall time of the interrupted processes, in seconds.
    """

    cfg: DictConfig
    index: DatasetIndex
    best_checkpoint: Path
    frozen: FrozenPart | None
    precision: PrecisionChoice
    frozen_pass: PassChoice | None
    parameters: dict[str, int]
    loggers: list[Logger]
    interruptions: int
    started: float
    seconds_before: float


def fit(
    cfg: DictConfig,
    index: DatasetIndex,
    folder: Path,
    provenance: dict[str, Any],
    resume_from: Path | None = None,
    pruning: ReportToSearch | None = None,
    started: float = PROCESS_START,
) -> FittedRun:
    """Train on `index` and return where the best checkpoint is.

    Args:
        cfg: `conf/train.yaml`; it is not modified.
        index: the images, with the splits "train" and "val".
        folder: the run folder.
        provenance: see `collect_provenance`; may be empty.
        resume_from: the last checkpoint of the interrupted run, or of another run that this one continues.
        pruning: the callback of a trial in a search.
        started: when the run was started or resumed, by `time.monotonic()`; by default with this process.

    Raises:
        UserError: a model or settings that cannot work, or a checkpoint of other settings.
        Pruned: the search has pruned this trial.
        Interrupted: a signal was received; the run is saved.
    """
    point = read_resume_point(resume_from, folder) if resume_from else None
    _seed(cfg.seed)
    processes = _count_processes(cfg, index)
    select_device(training_device(cfg.trainer))
    module = build_module(cfg, index)
    module.frozen = cached_part(module.classifier, index, with_batch_size(cfg, point))
    precision = run_precision(cfg, module, point)
    frozen_pass = run_pass(cfg, module, precision, len(index.splits["train"]), point)
    batch_size = run_batch_size(cfg, module, precision.precision, processes, point)
    run_cfg = resolve_with_preprocessing(
        cfg, module, folder, {"trainer.precision": precision.precision, "data.batch_size": batch_size}
    )
    data = build_data(run_cfg, index)
    recorded = _recorded(run_cfg, frozen_pass, provenance, run_settings(folder, cfg), processes)
    callbacks = _callbacks(run_cfg, recorded, started)
    trainer = _trainer(run_cfg, callbacks, provenance, processes, pruning)
    check_before_training(run_cfg, module, trainer, callbacks, point)
    if cfg.resume and trainer.is_global_zero:
        store_changes(folder, load_original_config(folder), cfg)

    parameters = count_parameters(module.classifier)
    _log_start(run_cfg, index, folder, parameters, [precision, *([frozen_pass] if frozen_pass else [])])
    module.continues = point is not None and point.continues
    if module.frozen and frozen_pass:
        use_cached_features(module.frozen, module.classifier, data, run_cfg, frozen_pass.how)
    _seed(cfg.seed)  # the number of draws so far depends on the state of the caches
    _run(trainer, module, data, run_cfg, precision, frozen_pass, resume_from)
    if pruning:
        pruning.raise_if_pruned(trainer)
    if cfg.finetune.mode == "gradual":  # stages became trainable during the run
        parameters = count_parameters(module.classifier)
    return _fitted_run(run_cfg, index, trainer, module, callbacks, precision, frozen_pass, parameters)


def _count_processes(cfg: DictConfig, index: DatasetIndex) -> int:
    processes = count_processes(cfg.trainer)
    if len(index.splits["train"]) < processes:
        raise UserError(f"{len(index.splits['train'])} training images for {processes} devices: set trainer.devices=1")
    return processes


def _callbacks(cfg: DictConfig, recorded: dict[str, Any], started: float) -> RunCallbacks:
    callbacks = build_callbacks(cfg)
    callbacks.last.started, callbacks.last.provenance = started, recorded
    return callbacks


def _recorded(
    cfg: DictConfig, frozen_pass: PassChoice | None, provenance: dict[str, Any], settings: str, processes: int
) -> dict[str, Any]:
    """The part of a run's provenance that its last checkpoint holds, which a resumed run must share."""
    how = frozen_pass.how if frozen_pass else FrozenPass(precision=cfg.trainer.precision or "32-true")
    return {
        **without_diff(provenance),
        "settings": settings,
        "precision": cfg.trainer.precision,
        "frozen_precision": how.precision,
        "frozen_engine": how.engine,
        "batch_size": cfg.data.batch_size,
        "processes": processes,
    }


def _trainer(
    cfg: DictConfig,
    callbacks: RunCallbacks,
    provenance: dict[str, Any],
    processes: int,
    pruning: ReportToSearch | None,
) -> pl.Trainer:
    loggers = build_loggers(cfg)
    # Settings are logged only once everything is set up, so that an early error leaves no trace in a dashboard.
    settings = LambdaCallback(on_train_start=lambda trainer, _: log_settings(trainer.loggers, cfg, provenance))
    strategy = choose_strategy(cfg.trainer.strategy, processes, callbacks.average_weights)
    in_order = [ValidateAtEnd(), *callbacks.all, settings, *([pruning] if pruning else [])]
    return build_trainer(cfg.trainer, strategy, in_order, loggers)


def _fitted_run(
    cfg: DictConfig,
    index: DatasetIndex,
    trainer: pl.Trainer,
    module: ClassifierModule,
    callbacks: RunCallbacks,
    precision: PrecisionChoice,
    frozen_pass: PassChoice | None,
    parameters: tuple[int, int],
) -> FittedRun:
    if not callbacks.best.best_model_path:
        raise UserError("no checkpoint was written: train for an epoch with validation (for a quick check: debug=fast)")
    return FittedRun(
        cfg=cfg,
        index=index,
        best_checkpoint=Path(callbacks.best.best_model_path),
        frozen=module.frozen,
        precision=precision,
        frozen_pass=frozen_pass,
        parameters=dict(zip(("parameters", "trainable"), parameters, strict=True)),
        loggers=trainer.loggers,
        interruptions=callbacks.last.interruptions,
        started=callbacks.last.started,
        seconds_before=callbacks.last.seconds_before,
    )


def check_before_training(
    cfg: DictConfig,
    module: ClassifierModule,
    trainer: pl.Trainer,
    callbacks: RunCallbacks,
    point: ResumePoint | None,
) -> None:
    """Raise UserError for everything that would fail during or after the training."""
    if cfg.finetune.mode == "gradual" and trainer.world_size > 1:
        raise UserError("finetune=gradual runs on one device: set trainer.devices=1")
    if point:
        check_not_over(point, cfg.trainer)
    if point and trainer.is_global_zero:
        check_unchanged(point, callbacks.last.provenance)
        if resume_may_round_differently(cfg.trainer.strategy, trainer.world_size):
            log.warning(
                "more than two devices: the last digit may differ from that of an uninterrupted run, except with "
                "trainer.strategy=auto or fsdp"
            )
    if trainer.is_global_zero:  # the only process that writes
        check_disk_space(module, callbacks.last.path.parent, callbacks.average_weights, callbacks.further)
    build_inference_trainer(cfg.inference)
    if cfg.refit:
        check_head(module.classifier)


def _seed(seed: int) -> None:
    pl.seed_everything(seed, verbose=False)
    # In its deterministic mode torch would fill all new memory with NaN, as a debugging aid.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _log_start(
    cfg: DictConfig, index: DatasetIndex, folder: Path, parameters: tuple[int, int], choices: list[Any]
) -> None:
    total, trainable = parameters
    images = " + ".join(f"{len(split):,} {name}" for name, split in index.splits.items())
    log.info(
        "%s: %s parameters, %s trainable; %d classes, %s images",
        cfg.model.name, f"{total:,}", f"{trainable:,}", len(index.classes), images,
    )  # fmt: skip
    for choice in choices:
        log.info("%s", choice)
    log.info("%s: one row per epoch", folder / "metrics.csv")


def _run(
    trainer: pl.Trainer,
    module: ClassifierModule,
    data: SportsDataModule,
    cfg: DictConfig,
    precision: PrecisionChoice,
    frozen_pass: PassChoice | None,
    resume_from: Path | None,
) -> None:
    batch_size = cfg.data.batch_size
    # The processes that Lightning starts take over what "auto" stands for.
    chosen = {BATCH_SIZE: str(batch_size), PRECISION: str(precision.precision)}
    if frozen_pass:
        chosen[FROZEN_PASS] = " ".join(astuple(frozen_pass.how))
    with (
        environment(**chosen),
        stop_together(trainer),
        deferred(),
        explain_batch_errors(batch_size),
    ):
        trainer.loggers = open_loggers(trainer.loggers)
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    if torch.distributed.is_initialized():  # all processes are done; the evaluation that follows uses one device
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
