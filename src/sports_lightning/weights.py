"""Pretrained weights: from a file that must fit, or from timm's hub if it can be reached."""

import socket
import sys
import urllib.parse
from pathlib import Path

import timm
from timm.models import load_pretrained
from torch import nn

from sports_lightning.errors import UserError

WAYS_TO_WEIGHTS = (
    "go online, or set model.weights=PATH to a .safetensors or .pth file, or model.pretrained=false to start untrained"
)


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a .safetensors or .pth file with timm's key names into a timm model; a head of another size is left out.

    timm itself only warns where keys are missing, which would train from random weights unnoticed.

    Raises:
        UserError: no such file, not a weight file, or one that lacks any part of the backbone.
    """
    if not path.is_file():
        raise UserError(f"model.weights={path} is not a file")
    missing: list[str] = []
    hook = net.register_load_state_dict_post_hook(lambda _, keys: missing.extend(keys.missing_keys))
    # The name by which timm's model files convert the keys of a model's original authors.
    filter_fn = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        load_pretrained(net, {**net.pretrained_cfg, "file": str(path)}, net.num_classes, filter_fn=filter_fn)  # type: ignore[dict-item, arg-type]
    except Exception as error:  # torch, safetensors and pickle each have their own for a file that does not fit
        raise UserError(f"model.weights={path} does not fit {_name(net)}: {first_line(error)}") from error
    finally:
        hook.remove()
    head = {id(p) for p in net.get_classifier().parameters()}  # type: ignore[operator]
    lacking = sorted(set(missing) - {name for name, p in net.named_parameters() if id(p) in head})
    if lacking:
        listed = ", ".join(lacking[:3])
        raise UserError(
            f"model.weights={path} does not fit {_name(net)}: it lacks {len(lacking)} keys such as {listed}"
        )


def check_hub(name: str) -> None:
    """Find out within seconds whether timm can have the weights of `name`; it would retry for a minute.

    Raises:
        UserError: there are none, or the hub cannot be reached and they are not in the local cache.
    """
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if cfg is None or not cfg.has_weights:
        raise UserError(f"{name} has no pretrained weights: set model.pretrained=false or model.weights=PATH")
    from huggingface_hub import constants, try_to_load_from_cache  # timm's own dependency

    files = ("model.safetensors", "pytorch_model.bin")
    if cfg.hf_hub_id and any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str) for file in files):
        return
    host = urllib.parse.urlsplit(str(constants.ENDPOINT if cfg.hf_hub_id else cfg.url))
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        socket.create_connection((host.hostname or "", host.port or (80 if host.scheme == "http" else 443)), 3).close()
    except OSError as error:
        raise UserError(
            f"can't reach {host.hostname} for the weights of {name} ({error}); {WAYS_TO_WEIGHTS}"
        ) from error


def first_line(error: Exception) -> str:
    """The beginning of a library's long message, on one line."""
    return " ".join(" ".join(str(error).strip().splitlines()[:2]).split())[:300] or type(error).__name__


def _name(net: nn.Module) -> str:
    return str(net.pretrained_cfg["architecture"])  # type: ignore[index]
