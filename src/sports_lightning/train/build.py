"""What a training runs on: the model with its loss, and the batches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.errors import UserError
from sports_lightning.inference.devices import require_compiler
from sports_lightning.models.classifier import build_classifier
from sports_lightning.models.pretrained import pretrained_cfg
from sports_lightning.train.fsdp import ShardedModule
from sports_lightning.train.losses import loss_function
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.resolved_config import resolve


def build(cfg: DictConfig, index: DatasetIndex) -> tuple[ClassifierModule, SportsDataModule]:
    """Build the model and the batches of `conf/train.yaml` on `index`, for use without `fit`.

    Raises:
        UserError: a model or settings that cannot work.
    """
    module = build_module(cfg, index)
    return module, build_data(resolve_with_preprocessing(cfg, module, None, {}), index)


def build_module(cfg: DictConfig, index: DatasetIndex) -> ClassifierModule:
    """Build the model of `conf/train.yaml`, with its loss, optimizer and schedule, for the classes of `index`.

    Raises:
        UserError: a model or settings that cannot work.
    """
    classifier = build_classifier(cfg.model, index.classes, index.root)
    classifier.spec = replace(classifier.spec, trained_on=index.fingerprint("train"))
    classifier.set_value_range(index.value_range)
    if cfg.augment.progressive_sizes and pretrained_cfg(classifier.net).get("fixed_input_size"):
        raise UserError(
            f"augment.progressive_sizes needs a model that takes any image size, and {cfg.model.name} takes one only"
        )
    if cfg.model.compile:
        require_compiler()
        classifier.net.compile()
    loss = loss_function(cfg.loss, index.classes, index.class_counts("train"))
    kind = ShardedModule if cfg.trainer.strategy == "fsdp" else ClassifierModule
    return kind(classifier, loss, cfg.optimizer, cfg.scheduler, cfg.finetune, cfg.seed)


def build_data(cfg: DictConfig, index: DatasetIndex) -> SportsDataModule:
    """Build the batches of a config whose `augment.preprocessing` is the model's."""
    preprocessing = Preprocessing.from_dict(cfg.augment.preprocessing)
    return SportsDataModule(index, preprocessing, cfg.data, cfg.augment, cfg.seed)


def resolve_with_preprocessing(
    cfg: DictConfig, module: ClassifierModule, folder: Path | None, found: dict[str, Any]
) -> DictConfig:
    """`resolve` with these values and the preprocessing of the model."""
    return resolve(cfg, {**found, "augment.preprocessing": module.classifier.spec.preprocessing}, folder)
