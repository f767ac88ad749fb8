"""Weights & Biases without a prompt: online where someone is logged in and the server answers, offline otherwise."""

import logging
import os
import socket
import urllib.parse
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(save_dir: str, **arguments: Any) -> WandbLogger:
    """A `WandbLogger` that never asks and never waits for a server that is not there.

    WANDB_MODE, where set, decides. `arguments` are those of WandbLogger and of `wandb.init`.
    """
    if "WANDB_MODE" not in os.environ:
        reason = why_offline()
        if reason:
            os.environ["WANDB_MODE"] = "offline"  # the environment, so that worker processes follow
            log.info("wandb: offline (%s); later: wandb sync %s", reason, Path(save_dir) / "wandb" / "offline-run-*")
    os.environ.setdefault("WANDB_SILENT", "true")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return WandbLogger(save_dir=save_dir, **arguments)


def why_offline() -> str | None:
    """The reason why W&B cannot be online, or None where it can."""
    settings = wandb.setup().settings
    host = urllib.parse.urlsplit(settings.base_url)
    from requests.utils import get_netrc_auth  # wandb's own dependency

    if not (settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)):
        return "nobody is logged in; wandb login"
    try:
        port = host.port or (80 if host.scheme == "http" else 443)
        socket.create_connection((host.hostname or "", port), timeout=3).close()
    except OSError as error:
        return f"can't reach {host.hostname}: {error}"
    return None
