"""Backbones with a new head, found by name in timm's registry, on the Hugging Face Hub or in a local folder."""

from dataclasses import dataclass
from typing import Any

import timm
from timm.models import parse_model_name, resolve_model_input_args
from torch import nn

from sports_lightning.errors import UserError
from sports_lightning.models.pretrained import (
    WAYS_TO_WEIGHTS,
    check_hub,
    check_reachable,
    is_cached,
    short_message,
)


@dataclass(frozen=True)
class BackboneSource:
    """A model name, resolved.

    Attributes:
        architecture: name in timm's registry, by which a checkpoint is loaded without the hub or the folder.
        arguments: of `timm.create_model`, including those that the hub or the folder adds.
        has_fixed_size: whether the model takes images of one size only.
    """

    architecture: str
    arguments: dict[str, Any]
    has_fixed_size: bool


def resolve_backbone(name: str, arguments: dict[str, Any]) -> BackboneSource:
    """Look up a model name.

    Args:
        name: in timm's registry, "hf-hub:OWNER/MODEL" or "local-dir:FOLDER", which holds a `config.json`.
        arguments: further arguments of `timm.create_model`.

    Raises:
        UserError: an unknown name, a hub that cannot be reached, or arguments that cannot work.
    """
    _check_channels(arguments.get("in_chans", 3), f"model.arguments.in_chans={arguments.get('in_chans')}")
    try:
        source, model = parse_model_name(name)
    except ValueError as error:
        raise UserError(f"model.name={name}: {short_message(error)}") from error
    if source is None:
        check_registry(name)
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
        return BackboneSource(name, arguments, bool(cfg and cfg.fixed_input_size))
    if source == "hf-hub" and not is_cached(model, "config.json"):
        check_reachable(name)
    try:
        resolved = resolve_model_input_args(name, **arguments)
    except Exception as error:  # of the hub, of JSON, of timm
        raise UserError(f"model.name={name} cannot be read: {short_message(error)}") from error
    cfg = resolved.pop("pretrained_cfg")
    for key in ("pretrained_model_args", "num_classes"):  # about the weights in the source, not this model
        resolved.pop(key, None)
    architecture = resolved.pop("model_name")
    _check_channels(resolved.get("in_chans", 3), f"model.name={name} with in_chans={resolved.get('in_chans')}")
    return BackboneSource(architecture, resolved, cfg.get("fixed_input_size", False))


def _check_channels(channels: Any, what: str) -> None:
    if channels not in (1, 3) or isinstance(channels, bool):
        raise UserError(f"{what}: images are RGB or converted to gray, set in_chans to 3 or 1")


def create_backbone(name: str, arguments: dict[str, Any], num_classes: int, pretrained: bool) -> nn.Module:
    """Create a timm model with a head of `num_classes` outputs.

    Args:
        name: as in `timm.create_model`.
        arguments: its further arguments.
        num_classes: outputs of the head, which is not pretrained.
        pretrained: whether to load the weights that belong to the name.

    Raises:
        UserError: arguments that do not fit the model, or weights that cannot be loaded.
    """
    if pretrained:
        check_hub(name)
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        if pretrained and isinstance(error, RuntimeError | OSError):  # the others are about an argument
            raise UserError(f"can't get the weights of {name}: {short_message(error)}; {WAYS_TO_WEIGHTS}") from error
        others = {key: value for key, value in arguments.items() if key != "img_size"}
        settings = [f"model.image_size={arguments['img_size']}"] if "img_size" in arguments else []
        settings += [f"model.arguments={others}"] if others or not settings else []
        raise UserError(f"{' or '.join(settings)} does not fit {name}: {short_message(error)}") from error


def check_registry(name: str) -> None:
    """Raise UserError if timm's registry does not have the model."""
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        hint = f" Did you mean {', '.join(close)}?" if close else " timm.list_models() has the names."
        raise UserError(f"model.name={name} is not known to timm.{hint}")
