"""What "auto" stands for in a run: precision, batch size, and how the pass through a frozen part runs.

A resumed run keeps the values that it had.
"""

from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from sports_lightning.inference.training_features import count_fixed_augmentations
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.train.batch_size import choose_batch_size, largest_batch
from sports_lightning.train.last_checkpoint import ResumePoint
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.pass_choice import PassChoice, choose_pass
from sports_lightning.train.precision import PrecisionChoice, choose_precision, standard_name


def with_batch_size(cfg: DictConfig, point: ResumePoint | None) -> DictConfig:
    """The config with a number as `data.batch_size`: before "auto" is found by trial, the most that it may become."""
    size = point.batch_size if point else cfg.data.batch_size
    if size == "auto":
        size = largest_batch(cfg.trainer.accelerator)
    merged = OmegaConf.merge(cfg, {"data": {"batch_size": size}})
    assert isinstance(merged, DictConfig)
    return merged


def run_precision(cfg: DictConfig, module: ClassifierModule, point: ResumePoint | None) -> PrecisionChoice:
    """The precision of the run; a resumed run uses its earlier one, since a new trial may choose another."""
    is_fixed = point and not point.continues
    requested = point.precision if point and is_fixed else cfg.trainer.precision
    batch_size = with_batch_size(cfg, point).data.batch_size
    cache_dir = resolve_cache_dir(cfg.data)
    chosen = choose_precision(requested, cfg.trainer.accelerator, module, cache_dir, batch_size)
    return replace(chosen, why="the precision before the interruption") if is_fixed else chosen


def run_pass(
    cfg: DictConfig, module: ClassifierModule, precision: PrecisionChoice, images: int, point: ResumePoint | None
) -> PassChoice | None:
    """How the pass through the frozen part of a run's module runs; a resumed run uses its earlier engine and precision.

    Args:
        cfg: `conf/train.yaml`.
        module: the model to train; None is returned if it has no part whose outputs will be cached.
        precision: of the training steps.
        images: number of training images.
        point: where the run resumes.
    """
    if module.frozen is None:
        return None
    if point and not point.continues:
        return PassChoice(point.frozen_pass, "as before the interruption", {})
    passing = images * (count_fixed_augmentations(cfg.augment) or 1)
    engine = cfg.finetune.get("engine", "torch")  # not in configs of earlier versions
    requested = standard_name(cfg.trainer.precision)
    accelerator, cache_dir = cfg.trainer.accelerator, resolve_cache_dir(cfg.data)
    return choose_pass(engine, requested, precision, accelerator, module, passing, cache_dir)


def run_batch_size(
    cfg: DictConfig, module: ClassifierModule, precision: str | None, processes: int, point: ResumePoint | None
) -> int:
    """The batch size of the run, over all processes; a resumed run uses its earlier one."""
    requested = point.batch_size if point else cfg.data.batch_size
    return choose_batch_size(requested, module, precision, cfg.trainer.accelerator, processes)
