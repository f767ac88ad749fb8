"""Fit a classifier: data → model → Lightning trainer → best checkpoint."""

import logging
import multiprocessing
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint, WeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy

from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.image_folder import DatasetIndex
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.errors import UserError
from sports_lightning.inference.devices import require_compiler
from sports_lightning.inference.feature_cache import use_cached_features
from sports_lightning.inference.frozen_part import FrozenPart
from sports_lightning.inference.predictor import build_inference_trainer
from sports_lightning.models.classifier import build_classifier
from sports_lightning.models.freezing import count_parameters
from sports_lightning.runs.checkpoint_files import AtomicCheckpointIO
from sports_lightning.runs.process import is_externally_launched
from sports_lightning.runs.provenance import without_diff
from sports_lightning.runs.resume import settings_fingerprint, stored_settings
from sports_lightning.runs.signals import deferred
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.sweeps.pruning import reports_to_search
from sports_lightning.train.batch_size import (
    check_disk_space,
    choose_batch_size,
    divisible_batch_size,
    explain_out_of_memory,
    forget_batch_size,
)
from sports_lightning.train.fsdp import ShardedModule, sharding_strategy
from sports_lightning.train.last_checkpoint import LastCheckpoint, check_unchanged, read_resume_point
from sports_lightning.train.loggers import log_settings
from sports_lightning.train.losses import loss_function
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.precision import PrecisionChoice, choose_precision
from sports_lightning.train.refit_head import check_head

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedRun:
    """What fitting leaves behind, for the results that follow (see results)."""

    index: DatasetIndex
    best_checkpoint: Path
    frozen: FrozenPart | None  # what need not run in training
    numerics: PrecisionChoice
    parameters: dict[str, int]
    loggers: list[Logger]
    interruptions: int
    seconds_before: float  # of the processes that were interrupted


def build(cfg: DictConfig, index: DatasetIndex) -> tuple[ClassifierModule, SportsDataModule]:
    """The model and the batches of `conf/train.yaml` on `index`.

    Raises:
        UserError: model or settings that cannot work.
    """
    classifier = build_classifier(cfg.model, index.classes, index.root)
    classifier.spec = replace(classifier.spec, trained_on=index.fingerprint("train"))
    cfg.augment.preprocessing = classifier.spec.preprocessing
    preprocessing = Preprocessing.from_dict(classifier.spec.preprocessing)
    if cfg.augment.progressive_sizes and classifier.net.pretrained_cfg.get("fixed_input_size"):  # type: ignore[operator,union-attr]
        raise UserError(
            f"augment.progressive_sizes needs a model that takes any size, and {cfg.model.name} takes one only"
        )
    if cfg.model.compile:
        require_compiler()
        classifier.net.compile()
    loss = loss_function(cfg.loss, index.class_counts("train"))
    kind = ShardedModule if cfg.trainer.strategy == "fsdp" else ClassifierModule
    module = kind(classifier, loss, cfg.optimizer, cfg.scheduler, cfg.finetune, cfg.seed)
    return module, SportsDataModule(index, preprocessing, cfg.data, cfg.augment, cfg.seed)


def _strategy(cfg: DictConfig, averages: bool) -> Any:
    """What Lightning is to take for `trainer.strategy`, for a run that averages its weights or does not."""
    asked_for = str(cfg.trainer.strategy)
    if asked_for == "fsdp":
        if averages:
            raise UserError("callbacks=[…,ema] needs the weights in one piece: set trainer.strategy=ddp")
        return sharding_strategy()
    # In a notebook there is no command line to start a second process with, and those processes are handed their work
    # by pickle. Here there is one, and each of them runs the job that it finds in the run folder.
    with_ddp = re.sub("_(spawn|fork|notebook)", "", asked_for)
    if with_ddp != asked_for:
        log.info("trainer.strategy=%s: its processes are started as for %s, for the same result", asked_for, with_ddp)
        return with_ddp
    return cfg.trainer.strategy


def fit(cfg: DictConfig, index: DatasetIndex, provenance: dict[str, Any], resume_from: Path | None) -> FittedRun:
    """Train on `index` as `conf/train.yaml` says and return where the best checkpoint is.

    Args:
        cfg: the config; what is "auto" in it is replaced by what it came to.
        index: the images.
        provenance: what the result depends on besides (see record).
        resume_from: the last checkpoint of an interrupted run that goes on.

    Raises:
        UserError: model or settings that cannot work, or a checkpoint that was made with others.
        Pruned: a search has given up this run.
        Interrupted: a signal came; the run is saved.
    """
    pl.seed_everything(cfg.seed, verbose=False)
    # For finding bugs only: torch would fill every new block of memory with NaN in its deterministic mode.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    asked_for = stored_settings(resume_from.parents[1]) if resume_from else settings_fingerprint(cfg)
    point = read_resume_point(resume_from) if resume_from else None
    if point:  # a trial could come out otherwise
        cfg.trainer.precision, cfg.data.batch_size = point.precision, point.batch_size
    module, data = build(cfg, index)
    numerics = choose_precision(cfg.trainer.precision, cfg.trainer.accelerator, module, resolve_cache_dir(cfg.data))
    if point:
        numerics = replace(numerics, why="as before the interruption")
    cfg.trainer.precision = numerics.precision
    callbacks = [instantiate(callback, _convert_="all") for callback in cfg.get("callbacks", {}).values() if callback]
    best = next((c for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor), None)
    last = next((c for c in callbacks if isinstance(c, LastCheckpoint)), None)
    if best is None or last is None:
        raise UserError("callbacks lacks best or last: add default, as in callbacks=[default,ema]")
    # Only once everything has been set up, so that a mistake found before leaves no trace in a dashboard.
    callbacks.append(LambdaCallback(on_train_start=lambda trainer, _: log_settings(trainer.loggers, cfg, provenance)))
    reports = reports_to_search()
    if reports:
        callbacks.append(reports)
    loggers = [instantiate(logger, _convert_="all") for logger in cfg.logger.values() if logger]
    averages = any(isinstance(c, WeightAveraging) for c in callbacks)
    plugins = [*(cfg.trainer.plugins or []), AtomicCheckpointIO()]
    strategy = _strategy(cfg, averages)

    def build_trainer(strategy: Any) -> pl.Trainer:
        parts = {"strategy": strategy, "callbacks": callbacks, "logger": loggers, "plugins": plugins}
        return instantiate(cfg.trainer, **parts, _convert_="all")

    trainer = build_trainer(strategy)
    # Plain ddp sums gradients in an order that it settles in its first step, and a resumed run has another first step;
    # of two numbers the order does not matter.
    is_ddp = isinstance(trainer.strategy, DDPStrategy) and not str(strategy).endswith("_true")
    order_varies = is_ddp and trainer.world_size > 2
    if order_varies and strategy == "auto":
        trainer, order_varies = build_trainer("ddp_find_unused_parameters_true"), False
    devices = trainer.world_size
    if cfg.data.batch_size == "auto":
        if is_externally_launched():
            raise UserError("data.batch_size=auto is one machine's choice: with torchrun or srun set a number")
        cfg.data.batch_size = choose_batch_size(module, numerics.precision, cfg.trainer.accelerator, devices)
    if (shared := divisible_batch_size(cfg.data.batch_size, devices)) != cfg.data.batch_size:
        remedy = f"set data.batch_size={shared}"
        raise UserError(f"data.batch_size={cfg.data.batch_size} does not divide over {devices} devices: {remedy}")
    if cfg.finetune.mode == "gradual" and devices > 1:
        raise UserError("finetune=gradual runs on one device: set trainer.devices=1")
    last.provenance = {
        **without_diff(provenance),
        "settings": asked_for,
        "precision": numerics.precision,
        "batch_size": cfg.data.batch_size,
        "processes": devices,
    }
    if point and trainer.is_global_zero:
        check_unchanged(point, last.provenance)
        if order_varies:
            log.warning(
                "more than two devices: the last digit may differ from that of a run without an interruption, "
                "except with trainer.strategy=auto or fsdp"
            )
    if trainer.is_global_zero:  # which alone writes
        check_disk_space(module, last.path.parent, averages)
    # What cannot work later is known before the training.
    build_inference_trainer(cfg.inference)
    if cfg.refit:
        check_head(module.classifier)

    total, learning = count_parameters(module.classifier)
    log.info(
        "%s: %s parameters, %s learning; %d classes, %s images",
        cfg.model.name, f"{total:,}", f"{learning:,}", len(index.classes),
        " + ".join(f"{len(split):,} {name}" for name, split in index.splits.items()),
    )  # fmt: skip
    log.info("%s", numerics)
    log.info("%s: a row an epoch", last.path.parents[1] / "metrics.csv")
    module.frozen = use_cached_features(module.classifier, data, cfg)
    # The draws so far depend on what was stored already; those that follow must not.
    pl.seed_everything(cfg.seed, verbose=False)
    try:
        with deferred(), explain_out_of_memory(cfg.data.batch_size):
            trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    except BaseException:
        if trainer.strategy.launcher is not None:  # the other processes would wait for this one
            trainer.strategy.launcher.kill(signal.SIGKILL)
        for worker in multiprocessing.active_children():  # which take no other signal, and Python would wait for them
            worker.kill()
        raise
    finally:
        forget_batch_size()
    if torch.distributed.is_initialized():  # every process is done; what follows is one device's work
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if reports:
        reports.raise_if_pruned(trainer)
    if not best.best_model_path:
        raise UserError("no checkpoint was written: train for an epoch with validation (for a quick look: debug=fast)")
    return FittedRun(
        index,
        Path(best.best_model_path),
        module.frozen,
        numerics,
        {"parameters": total, "trainable": learning},
        loggers,
        last.interruptions,
        last.seconds_before,
    )
