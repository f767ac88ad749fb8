"""What "auto" stands for in a run: its precision and batch size. A resumed run keeps those that it had."""

from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.train.batch_size import choose_batch_size, largest_batch
from sports_lightning.train.last_checkpoint import ResumePoint
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.precision import PrecisionChoice, choose_precision


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
    if point and is_fixed:
        why = "the precision before the interruption"
        frozen = point.frozen_precision if point.frozen_precision != point.precision else None
        return replace(chosen, why=why, frozen_precision=frozen)
    return chosen


def run_batch_size(
    cfg: DictConfig, module: ClassifierModule, precision: str | None, processes: int, point: ResumePoint | None
) -> int:
    """The batch size of the run, over all processes; a resumed run uses its earlier one."""
    requested = point.batch_size if point else cfg.data.batch_size
    return choose_batch_size(requested, module, precision, cfg.trainer.accelerator, processes)
