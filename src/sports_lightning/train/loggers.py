"""The settings that dashboards show, and Weights & Biases without a prompt, online if possible and else offline."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from sports_lightning.runs.layout import METRICS
from sports_lightning.runs.process import is_rank_zero
from sports_lightning.storage.reachability import why_unreachable
from sports_lightning.sweeps.resume import current_sweep

log = logging.getLogger(__name__)


def wandb_logger(save_dir: str, log_model: bool = False, **arguments: Any) -> WandbLogger:
    """A `WandbLogger` that never prompts and never waits for an unreachable server.

    WANDB_MODE takes precedence if it is set. A resumed run keeps its W&B run.

    Args:
        save_dir: the run folder.
        log_model: log the best checkpoint as an artifact. It is not passed on: Lightning would log the checkpoint
            before the head refit and the temperature are saved in it.
        arguments: arguments of `WandbLogger` and of `wandb.init`. Without a `group`, the jobs of a sweep form one that
            is named after the sweep folder.
    """
    if not arguments.get("group") and (sweep := current_sweep()):
        arguments = {**arguments, "group": sweep.name}
    os.environ.setdefault("WANDB_SILENT", "true")  # before wandb reads its settings
    reason = None if "WANDB_MODE" in os.environ else why_offline()
    if reason:
        log.info("wandb: offline (%s); later: wandb sync %s", reason, Path(save_dir) / "wandb" / "offline-run-*")
    if is_rank_zero():
        Path(save_dir).mkdir(parents=True, exist_ok=True)
    if run_id := tracked_run_id(Path(save_dir)):
        arguments = {**arguments, "id": run_id, "resume": "allow"}
    return WandbLogger(save_dir=save_dir, mode="offline" if reason else None, **arguments)


def tracked_run_id(folder: Path) -> str | None:
    """The id of the W&B run that an earlier process tracked in `folder`/wandb, or None. The id may contain dashes."""
    names = (path.name for path in sorted((folder / "wandb").glob("*run-*")))
    matches = (re.fullmatch(r"(?:offline-)?run-\d+_\d+-(.+)", name) for name in names)  # (offline-)run-TIME-ID
    return next((match[1] for match in matches if match), None)


def log_settings(loggers: list[Logger], cfg: DictConfig, provenance: dict[str, Any]) -> None:
    """Log the resolved config and the commit of the code to each dashboard.

    Weights & Biases then summarizes each metric by its best epoch.
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


def why_offline() -> str | None:
    """The reason why W&B cannot be used online; None if it can."""
    import wandb
    from requests.utils import get_netrc_auth  # wandb's own dependency

    settings = wandb.setup().settings
    if not (settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)):
        return "not logged in; wandb login"
    reason = why_unreachable(settings.base_url)
    return reason and f"can't reach {settings.base_url}: {reason}"
