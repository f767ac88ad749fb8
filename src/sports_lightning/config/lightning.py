"""Rules on Lightning's trainer, callbacks and loggers, each with what to use instead. No Lightning in here."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sports_lightning.config.groups import Trainer
from sports_lightning.config.monitors import METRICS
from sports_lightning.config.values import Problem

# Lightning's callbacks that cannot work here, and what to use instead.
_REPLACED = {
    "LearningRateFinder": "compare learning rates with a sweep, -m optimizer.lr=1e-4,1e-3,1e-2",
    "BatchSizeFinder": "use data.batch_size=auto",
    "StochasticWeightAveraging": "average the weights with callbacks=[default,ema]",
    "GradientAccumulationScheduler": "use trainer.accumulate_grad_batches, which is the same in every epoch",
    "BackboneFinetuning": "use finetune=gradual, or finetune=head",
    "BaseFinetuning": "use finetune=gradual, or finetune=head",
    "ModelPruning": "pruned weights have other names, by which a checkpoint could not be loaded",
}
_NEED_A_LOGGER = ("DeviceStatsMonitor", "LearningRateMonitor", "ThroughputMonitor")
# Checkpoints between two validations have no metric of their own.
_BETWEEN_VALIDATIONS = ("every_n_train_steps", "train_time_interval")


def lightning_problems(cfg: DictConfig) -> list[Problem]:
    """Return the arguments of the trainer that Lightning does not have, and the callbacks that cannot work."""
    problems = list(_unknown_arguments(cfg))
    missing = {"callbacks.best", "callbacks.last"} - {key for key, _ in _nodes(cfg, "callbacks")}
    if "callbacks" in cfg and missing:
        verb = "is" if len(missing) == 1 else "are"
        message = f"{' and '.join(sorted(missing))} {verb} missing: add default, as in callbacks=[default,ema]"
        problems.append(Problem("callbacks", message))
    problems += [problem for key, node in _nodes(cfg, "callbacks") for problem in _problems(key, node, cfg)]
    for group in ("callbacks", "logger"):
        problems += [problem for key, node in _nodes(cfg, group) for problem in _target_problems(key, node)]
    return problems


def _unknown_arguments(cfg: DictConfig) -> Iterator[Problem]:
    trainer = cfg.get("trainer") or {}
    if trainer.get("_target_") != "pytorch_lightning.Trainer":
        return
    known = [field.name for field in fields(Trainer)]
    for name in set(trainer) - {*known, "_target_"}:
        if name in ("callbacks", "logger"):
            remedy = f"choose {name} with the group {name}=NAME"
        else:
            close = difflib.get_close_matches(str(name), known, n=1)
            remedy = f"did you mean trainer.{close[0]}?" if close else "see --help for all keys"
        yield Problem(f"trainer.{name}", f"trainer.{name} is not an argument of Lightning's Trainer here: {remedy}")


def _nodes(cfg: DictConfig, group: str) -> Iterator[tuple[str, Any]]:
    for name, node in (cfg.get(group) or {}).items():
        if node is not None:
            yield f"{group}.{name}", node


def _target_problems(key: str, node: Any) -> Iterator[Problem]:
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if not isinstance(target, str):
        yield Problem(key, f"{key} has no _target_: set {key}._target_=CLASS, or {key}=null to leave it out")
    elif target.startswith("lightning.pytorch."):  # its classes are not those of the trainer
        known = target.replace("lightning.pytorch.", "pytorch_lightning.", 1)
        yield Problem(key, f"{key}._target_={target} is of another package: use {known}")


def _problems(key: str, node: Any, cfg: DictConfig) -> Iterator[Problem]:
    target = str(node.get("_target_")) if isinstance(node, DictConfig) else ""
    kind = target.rpartition(".")[2]
    if not target.startswith(("pytorch_lightning.", "lightning.pytorch.")):
        return
    if kind in _REPLACED:
        yield Problem(key, f"{key}._target_={target} is not supported: {_REPLACED[kind]}")
    elif kind in _NEED_A_LOGGER and not any(_nodes(cfg, "logger")):
        message = (
            f"{key}._target_={target} needs a logger: use logger=tensorboard (metrics.csv has the learning rate anyway)"
        )
        yield Problem(key, message)
    elif kind == "ModelCheckpoint":
        yield from _checkpoint_problems(key, node)


def _checkpoint_problems(key: str, node: DictConfig) -> Iterator[Problem]:
    if node.get("save_last"):
        message = f"{key}.save_last={node.save_last}: callbacks.last writes last.ckpt after every epoch: leave it out"
        yield Problem(key, message)
    for name in _BETWEEN_VALIDATIONS if node.get("monitor") else ():
        if node.get(name):
            yield Problem(
                key,
                f"{key}.{name}={node[name]} saves weights to which no {node.monitor} belongs: validate more often "
                f"instead, with trainer.val_check_interval",
            )
    filename = Path(str(node.get("filename") or ""))
    if filename.is_absolute() or ".." in filename.parts:
        message = f"{key}.filename={filename} is outside the folder of the checkpoints: use {key}.dirpath=FOLDER for it"
        yield Problem(key, message)
    known = {"epoch", "step", *(f"{split}/{name}" for split in ("val", "train") for name in METRICS)}
    for name in re.findall(r"\{([^:}]*)", str(node.get("filename") or "")):
        if name not in known:
            message = f"{key}.filename={node.filename}: {name} is unknown; use {', '.join(sorted(known))}"
            yield Problem(key, message)
