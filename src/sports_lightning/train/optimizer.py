"""The optimizer of a training: timm's, by name, with Muon in float32 on devices without bfloat16."""

from typing import Any

import timm.optim
import timm.optim.muon
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import has_bfloat16

_newton_schulz = timm.optim.muon.zeropower_via_newtonschulz


def _newton_schulz_in_native_precision(update: Tensor, *arguments: Any, **settings: Any) -> Tensor:
    """timm's iteration in bfloat16 where the device of `update` has it, and in float32 elsewhere.

    Emulated bfloat16 takes about 60 times as long on a CPU. timm gives its optimizer no argument for that.
    """
    dtype = torch.bfloat16 if has_bfloat16(update.device) else torch.float32
    return _newton_schulz(update, *arguments, **{"dtype": dtype, **settings})


timm.optim.muon.zeropower_via_newtonschulz = _newton_schulz_in_native_precision  # type: ignore[assignment]


def build_optimizer(net: nn.Module, config: DictConfig) -> Optimizer:
    """Create the optimizer of all trainable parameters of `net`.

    Args:
        net: the network.
        config: `conf/optimizer/*.yaml`.

    Raises:
        UserError: a name that timm does not know, or arguments that the optimizer refuses when it is created.
    """
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
