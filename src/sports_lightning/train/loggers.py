"""Dashboards that neither prompt nor end a run: a server that refuses or does not answer costs a line of the log."""

import logging
import os
import re
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning_fabric.loggers.logger import rank_zero_experiment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger

from sports_lightning.reports.decorations import short_reason
from sports_lightning.runs.layout import METRICS
from sports_lightning.runs.process import is_rank_zero
from sports_lightning.storage.reachability import why_unreachable
from sports_lightning.sweeps.resume import current_sweep

log = logging.getLogger(__name__)

# Environment variables of the clients, unless they are set: how long they wait for a server, and what they print.
_CLIENT_SETTINGS = {
    "wandb": {
        "WANDB_INIT_TIMEOUT": "30",  # seconds
        "WANDB_SILENT": "true",  # its warnings are logged, its errors raised
        "WANDB_ERROR_REPORTING": "false",  # the client's messages about itself, which it repeats for half a minute
    },
    "mlflow": {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # with pauses of 2, 4 and 8 seconds
    },
}
_FINISH_TIMEOUT = "WANDB_FINISH_TIMEOUT"  # seconds for the end of the upload
CLIENT_VARIABLES = [_FINISH_TIMEOUT, *(name for settings in _CLIENT_SETTINGS.values() for name in settings)]
_LOGGER_METHODS = ("log_hyperparams", "log_metrics", "log_graph", "after_save_checkpoint", "save", "finalize")


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """Instantiate `conf/logger/*.yaml`. A logger that fails later warns once and does nothing more."""
    nodes = {name: node for name, node in cfg.logger.items() if node}
    for client, settings in _CLIENT_SETTINGS.items():
        if any(client in f"{name} {node.get('_target_')}".lower() for name, node in nodes.items()):
            for variable, value in settings.items():
                os.environ.setdefault(variable, value)
    loggers = [instantiate(node, _convert_="all") for node in nodes.values()]
    for logger in loggers:
        _guard(logger)
    return loggers


def open_loggers(loggers: list[Logger]) -> list[Logger]:
    """Start the run in each dashboard, and return the loggers.

    One that does nothing replaces a logger whose dashboard cannot be reached, because callbacks such as Lightning's
    `LearningRateMonitor` refuse a run without loggers.
    """
    opened = []
    for logger in loggers:
        try:
            getattr(logger, "experiment", None)  # Lightning's loggers start their run when it is first read
            opened.append(logger)
        except Exception as error:  # whatever a dashboard's client raises
            log.warning("%s was not started; the run continues without it: %s", _name(logger), short_reason(error))
            opened.append(DummyLogger())
    return opened


def _guard(logger: Logger) -> None:
    """Warn when the logger fails, and skip its later calls: within `Trainer.fit` an exception would end the run."""
    has_failed = False

    def guarded(call: Callable[..., Any]) -> Callable[..., None]:
        @wraps(call)
        def call_or_warn(*arguments: Any, **options: Any) -> None:
            nonlocal has_failed
            if has_failed:
                return
            try:
                call(*arguments, **options)
            except Exception as error:  # whatever a dashboard's client raises
                has_failed = True
                log.warning("%s failed; the run continues without it: %s", _name(logger), short_reason(error))

        return call_or_warn

    for name in _LOGGER_METHODS:
        setattr(logger, name, guarded(getattr(logger, name)))


def _name(logger: Logger) -> str:
    return type(logger).__name__


class FallbackWandbLogger(WandbLogger):
    """A `WandbLogger` that continues offline if the server refuses the run or does not answer in time."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._wandb_init.pop("anonymous", None)  # Lightning's default, of which recent versions of wandb warn

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of W&B, started at the first access."""
        try:
            return super().experiment
        except Exception as error:  # of many types: no permission, a wrong key, a proxy, a timeout
            if self._wandb_init.get("mode") == "offline":
                raise
            _log_offline(short_reason(error), str(self._save_dir))
            self._wandb_init["mode"] = "offline"
            return super().experiment


def wandb_logger(save_dir: str, log_model: bool = False, **arguments: Any) -> WandbLogger:
    """A `WandbLogger` that never prompts and never waits long for a server.

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
    os.environ.setdefault(_FINISH_TIMEOUT, "600" if log_model else "120")
    _log_warnings_of_wandb()
    reason = None if "WANDB_MODE" in os.environ else why_offline()
    if reason:
        _log_offline(reason, save_dir)
    if is_rank_zero():
        Path(save_dir).mkdir(parents=True, exist_ok=True)
    if run_id := tracked_run_id(Path(save_dir)):
        arguments = {**arguments, "id": run_id, "resume": "allow"}
    return FallbackWandbLogger(save_dir=save_dir, mode="offline" if reason else None, **arguments)


def _log_warnings_of_wandb() -> None:
    """Log what the silenced client warns of, such as an upload that fails during the run."""
    import wandb

    client = logging.getLogger(f"{__name__}.client")
    client.setLevel(logging.WARNING)
    wandb.termsetup(wandb.setup().settings, client)


def _log_offline(reason: str, save_dir: str) -> None:
    log.info("wandb: offline (%s); later: wandb sync %s/offline-run-*", reason, shlex.quote(f"{save_dir}/wandb"))


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
    import requests  # wandb's own dependency
    import wandb
    from requests.utils import get_netrc_auth

    settings = wandb.setup().settings
    if not (settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)):
        return "not logged in; wandb login"
    reason = why_unreachable(settings.base_url, head=lambda url, timeout: requests.head(url, timeout=timeout))
    return reason and f"can't reach {settings.base_url}: {reason}"
