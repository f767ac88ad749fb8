"""The metrics by which callbacks compare epochs, and whether a higher or a lower value is better."""

from collections.abc import Iterator
from typing import Literal

from omegaconf import DictConfig, OmegaConf

from sports_lightning.config.values import Problem

METRICS = ("loss", "acc", "acc_top5", "f1_macro", "precision_macro", "recall_macro")  # of each split

_LIGHTNING_CALLBACKS = "pytorch_lightning.callbacks."  # all of those with a `monitor` take a `mode`
_LOWER_IS_BETTER = ("loss", "ece", "brier")


def monitor_mode(metric: str) -> Literal["min", "max"]:
    """Return the direction in which a metric such as `val/loss` improves."""
    return "min" if metric.rpartition("/")[2] in _LOWER_IS_BETTER else "max"


def resolve_monitor_modes(cfg: DictConfig) -> None:
    """Set the `mode` of each callback that has a `monitor`, in place, unless it has another `mode` than null.

    A callback of another library is given no `mode` where its config has none: its class may not take one.
    """
    for _, callback in _monitoring_callbacks(cfg):
        takes_mode = "mode" in callback or str(callback.get("_target_")).startswith(_LIGHTNING_CALLBACKS)
        if takes_mode and callback.get("mode") in (None, "none"):
            callback["mode"] = monitor_mode(callback.monitor)


def monitor_problems(cfg: DictConfig) -> list[Problem]:
    """Return the callbacks that monitor an unknown metric, or a metric in the wrong direction."""
    known = [f"{split}/{name}" for split in ("val", "train") for name in METRICS]
    problems = []
    best = (cfg.get("callbacks") or {}).get("best")
    if isinstance(best, DictConfig) and best.get("monitor") is None:
        message = f"callbacks.best.monitor=null: the best checkpoint needs a metric: one of {', '.join(known)}"
        problems.append(Problem("callbacks.best.monitor", message))
    for key, callback in _monitoring_callbacks(cfg):
        monitor, mode = callback.monitor, callback.get("mode")
        if monitor not in known:
            message = f"{key}.monitor={monitor} must be one of {', '.join(known)}"
            problems.append(Problem(f"{key}.monitor", message))
        elif mode in ("min", "max") and mode != monitor_mode(monitor):
            message = f"{key}.mode={mode} would select the worst {monitor}: leave mode out, or set {key}.mode=null"
            problems.append(Problem(f"{key}.mode", message))
        elif monitor.startswith("train/") and not _validates_after_epochs(cfg):
            message = f"{key}.monitor={monitor} is known after each epoch only: leave out trainer.val_check_interval "
            message += "and trainer.check_val_every_n_epoch, or monitor a metric of val/"
            problems.append(Problem(f"{key}.monitor", message))
    return problems


def _validates_after_epochs(cfg: DictConfig) -> bool:
    interval = OmegaConf.select(cfg, "trainer.val_check_interval")
    return OmegaConf.select(cfg, "trainer.check_val_every_n_epoch") == 1 and interval in (None, 1.0)


def _monitoring_callbacks(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    for name, callback in (cfg.get("callbacks") or {}).items():
        if isinstance(callback, DictConfig) and isinstance(callback.get("monitor"), str):
            yield f"callbacks.{name}", callback
