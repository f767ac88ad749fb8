"""Weights & Biases without a prompt: online where someone is logged in and the server answers, offline otherwise."""

import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger

from sports_lightning.network import why_unreachable

log = logging.getLogger(__name__)


def wandb_logger(save_dir: str, **arguments: Any) -> WandbLogger:
    """A `WandbLogger` that never asks and never waits for a server that is not there.

    WANDB_MODE, where set, decides. A run that goes on in its folder keeps its W&B run. `arguments` are those of
    WandbLogger and of `wandb.init`.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # before wandb reads its settings
    reason = None if "WANDB_MODE" in os.environ else why_offline()
    if reason:
        log.info("wandb: offline (%s); later: wandb sync %s", reason, Path(save_dir) / "wandb" / "offline-run-*")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    earlier = sorted(Path(save_dir, "wandb").glob("*run-*-*"))  # (offline-)run-TIME-ID
    if earlier:
        arguments = {**arguments, "id": earlier[0].name.rsplit("-", 1)[1], "resume": "allow"}
    return WandbLogger(save_dir=save_dir, mode="offline" if reason else None, **arguments)


def log_report(logger: Logger, path: Path) -> None:
    """Put a run's report into its dashboard, where that shows web pages."""
    if isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.log({"report": wandb.Html(path.open(encoding="utf-8"), inject=False)})


def why_offline() -> str | None:
    """The reason why W&B cannot be online, or None where it can."""
    import wandb
    from requests.utils import get_netrc_auth  # wandb's own dependency

    settings = wandb.setup().settings
    if not (settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)):
        return "nobody is logged in; wandb login"
    reason = why_unreachable(settings.base_url)
    return reason and f"can't reach {settings.base_url}: {reason}"
