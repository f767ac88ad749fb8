"""Pretrained weights: from a file that must fit, or from timm's hub if it can be reached."""

import sys
from pathlib import Path

import timm
from timm.models import load_pretrained
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys

from sports_lightning.errors import UserError
from sports_lightning.storage.reachability import why_unreachable

WAYS_TO_WEIGHTS = (
    "go online, or set model.weights=PATH to a .safetensors or .pth file, or model.pretrained=false to start untrained"
)


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a .safetensors or .pth file with timm's key names into a timm model; a head of another size is left out.

    timm itself only warns where keys are missing, which would train from random weights unnoticed.

    Raises:
        UserError: no such file, not a weight file, or one that is not of exactly this backbone.
    """
    if not path.is_file():
        raise UserError(f"model.weights={path} is not a file")
    keys: list[_IncompatibleKeys] = []
    hook = net.register_load_state_dict_post_hook(lambda _, found: keys.append(found))
    # The name by which timm's model files convert the keys of a model's original authors.
    filter_fn = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    num_classes: int = net.num_classes  # type: ignore[assignment]
    net.reset_classifier(0)  # type: ignore[operator]  # timm then leaves the file's head out
    try:
        load_pretrained(net, {**net.pretrained_cfg, "file": str(path)}, 0, filter_fn=filter_fn)  # type: ignore[dict-item]
    except Exception as error:  # torch, safetensors and pickle each have their own for a file that does not fit
        raise UserError(f"model.weights={path} does not fit {_name(net)}: {short_message(error)}") from error
    finally:
        hook.remove()
        net.reset_classifier(num_classes)  # type: ignore[operator]
    lacking, left_over = keys[-1].missing_keys, keys[-1].unexpected_keys
    for wrong, problem in ((lacking, "it lacks"), (left_over, "it has besides")):
        if wrong:
            listed = ", ".join(wrong[:3])
            raise UserError(f"model.weights={path} does not fit {_name(net)}: {problem} {len(wrong)} keys: {listed} …")


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
    hub = str(constants.ENDPOINT if cfg.hf_hub_id else cfg.url)
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else why_unreachable(hub)
    if reason:
        raise UserError(f"can't reach {hub} for the weights of {name}: {reason}; {WAYS_TO_WEIGHTS}")


def short_message(error: Exception) -> str:
    """The beginning of a library's long message, on one line."""
    return " ".join(" ".join(str(error).strip().splitlines()[:2]).split())[:300] or type(error).__name__


def _name(net: nn.Module) -> str:
    return str(net.pretrained_cfg["architecture"])  # type: ignore[index]
