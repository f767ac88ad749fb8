"""timm's optimizers, by name."""

from functools import partial

import timm.optim
import timm.optim.muon
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import cpu_has_bfloat16

_orthogonalize = timm.optim.muon.zeropower_via_newtonschulz


def build_optimizer(net: nn.Module, config: DictConfig, device: torch.device) -> Optimizer:
    """Create the optimizer of all trainable parameters of `net`.

    Args:
        net: the network.
        config: `conf/optimizer/*.yaml`.
        device: where it is trained.

    Raises:
        UserError: a name that timm does not know, or arguments that this optimizer does not take.
    """
    _set_precision_of_muon(device)
    try:
        return timm.optim.create_optimizer_v2(
            net,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
            **OmegaConf.to_container(config.arguments),  # type: ignore[arg-type]
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"optimizer={config.name} with {dict(config.arguments)}: {error}") from error


def _set_precision_of_muon(device: torch.device) -> None:
    """Let Muon's Newton-Schulz iterations run in float32 where bfloat16 is emulated, which takes 60 times as long.

    timm gives its optimizer no argument for that.
    """
    is_emulated = device.type == "cpu" and not cpu_has_bfloat16()
    timm.optim.muon.zeropower_via_newtonschulz = (
        partial(_orthogonalize, dtype=torch.float32) if is_emulated else _orthogonalize
    )
