"""Pretrained weights: from a weight file, from a checkpoint of this package, or from timm's hub."""

import sys
from pathlib import Path
from typing import Any

import timm
from timm.models import load_pretrained, parse_model_name
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from sports_lightning.errors import UserError
from sports_lightning.models.weight_files import network_state
from sports_lightning.storage.reachability import why_unreachable

WAYS_TO_WEIGHTS = (
    "go online, or set model.weights=PATH to a .safetensors or .pth file, or model.pretrained=false to start untrained"
)


def pretrained_cfg(net: nn.Module) -> dict[str, Any]:
    """What timm knows about the weights and images of a model; empty for a registered model without it."""
    return dict(getattr(net, "pretrained_cfg", None) or {})


def load_weights(net: nn.Module, name: str, path: Path, content: dict[str, Any], channels: int = 3) -> None:
    """Load a weight file with timm's key names, or those of the authors, into a timm model, except for its head.

    Missing or unexpected keys are an error; timm only warns of them and would train from random weights.

    Args:
        net: the model.
        name: its architecture, for messages.
        path: the file, for messages.
        content: what is in it (see `read_weight_file`).
        channels: that the model takes; timm sums the weights of the first convolution over the channels for one.

    Raises:
        UserError: the weights of another backbone, or a model without timm's `reset_classifier`.
    """
    if not hasattr(net, "reset_classifier"):
        raise UserError(f"model.weights={path}: {name} has no reset_classifier, which timm needs to load weights")
    # timm's model modules convert the key names of a model's original authors by a function of this name.
    filter_fn = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    num_classes: int = net.num_classes  # type: ignore[assignment]
    state = network_state(content, net.state_dict().keys())
    if not state:  # timm would look for weights on its hub
        raise UserError(f"model.weights={path} holds no weights")
    cfg = {**pretrained_cfg(net), "source": "", "state_dict": state}
    net.reset_classifier(0)  # type: ignore[operator]  # so that timm drops the head in the file
    keys: list[_IncompatibleKeys] = []
    hook = net.register_load_state_dict_post_hook(lambda _, found: keys.append(found))
    try:
        load_pretrained(net, cfg, 0, channels, filter_fn=filter_fn)
    except Exception as error:  # the conversion may raise anything
        raise UserError(f"model.weights={path} does not match {name}: {short_message(error)}") from error
    finally:
        hook.remove()
        net.reset_classifier(num_classes)  # type: ignore[operator]
    _check_keys(keys[-1].missing_keys, keys[-1].unexpected_keys, name, path)


def load_state(net: nn.Module, name: str, state: dict[str, Tensor], head: set[str], path: Path) -> None:
    """Load the weights of a checkpoint of this package into a model of the same architecture.

    Args:
        net: the model.
        name: its architecture, for messages.
        state: the weights by their names in `net`.
        head: names of the weights of the head if they are left out, else empty.
        path: the checkpoint, for messages.

    Raises:
        UserError: weights that are missing, unexpected or of another shape.
    """
    state = {key: value for key, value in state.items() if key not in head}
    try:
        found = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"model.weights={path} does not match {name}: {short_message(error)}") from error
    _check_keys([key for key in found.missing_keys if key not in head], found.unexpected_keys, name, path)


def _check_keys(missing: list[str], unexpected: list[str], name: str, path: Path) -> None:
    for keys, problem in ((missing, "missing"), (unexpected, "unexpected")):
        if keys:
            listed = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
            raise UserError(f"model.weights={path} does not match {name}: {len(keys)} {problem} keys: {listed}")


def check_hub(name: str) -> None:
    """Check within seconds whether timm can get the weights of a model; timm itself retries for a minute.

    Args:
        name: as in `timm.create_model`, also "hf-hub:OWNER/MODEL" or "local-dir:FOLDER".

    Raises:
        UserError: there are no weights, or the hub cannot be reached and they are not in the local cache.
    """
    source, model = parse_model_name(name)
    if source == "local-dir":
        return
    repository, url = model, None
    if source is None:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if cfg is None or not cfg.has_weights:
            raise UserError(f"{name} has no pretrained weights: set model.pretrained=false or model.weights=PATH")
        repository, url = cfg.hf_hub_id or "", None if cfg.hf_hub_id else str(cfg.url)
    if not (repository and any(is_cached(repository, file) for file in ("model.safetensors", "pytorch_model.bin"))):
        check_reachable(name, url)


def is_cached(repository: str, file: str) -> bool:
    """Whether a file of a repository on the Hugging Face Hub is in the local cache."""
    from huggingface_hub import try_to_load_from_cache  # a dependency of timm

    name, _, revision = repository.partition("@")
    return isinstance(try_to_load_from_cache(name, file, revision=revision or None), str)


def check_reachable(name: str, url: str | None = None) -> None:
    """Raise UserError if `url`, or the Hugging Face Hub, cannot be reached for the weights of `name`."""
    from huggingface_hub import constants, get_session

    hub = url or str(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        reason: str | None = "HF_HUB_OFFLINE is set"
    elif url:  # timm downloads it with urllib
        reason = why_unreachable(url)
    else:
        reason = why_unreachable(hub, head=lambda url, timeout: get_session().head(url, timeout=timeout))
    if reason:
        raise UserError(f"can't reach {hub} for the weights of {name}: {reason}; {WAYS_TO_WEIGHTS}")


def short_message(error: Exception) -> str:
    """The first two lines of a library's error message, on one line of at most 300 characters."""
    return " ".join(" ".join(str(error).strip().splitlines()[:2]).split())[:300] or type(error).__name__
