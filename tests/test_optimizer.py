"""Optimizers beyond what timm tests: the precision of Muon."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from sports_lightning.inference import devices
from sports_lightning.train import optimizer


def update(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> torch.Tensor:
    """What a step of Muon with learning rate 1 subtracts from a matrix, (6, 8), whose gradient is drawn."""
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: has_bfloat16)
    arguments = {"momentum": 0.0, "adjust_lr_fn": "rms_to_rms", "ns_steps": 15, "ns_coefficients": (2.0, -1.5, 0.5)}
    config = {"name": "muon", "lr": 1.0, "weight_decay": 0.0, "layer_decay": None, "arguments": arguments}
    net = nn.Sequential(nn.Linear(8, 6, bias=False))
    built = optimizer.build_optimizer(net, OmegaConf.create(config))
    before = net[0].weight.detach().clone()
    net[0].weight.grad = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    built.step()
    return before - net[0].weight.detach()


@pytest.mark.parametrize(("has_bfloat16", "smallest", "largest"), [(False, 0, 1e-4), (True, 1e-4, 0.1)])
def test_muon_iterates_in_float32_where_bfloat16_is_emulated(
    has_bfloat16: bool, smallest: float, largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = update(monkeypatch, has_bfloat16)
    scale = found.norm() / 6**0.5
    deviation = (found @ found.T / scale**2 - torch.eye(6)).abs().max()
    assert smallest <= deviation < largest, "the rows are orthogonal"


@pytest.mark.parametrize(("device", "expected"), [("cuda", True), ("cuda", False), ("mps", False)])
def test_bfloat16_is_native_on_gpus_that_say_so(device: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: expected)
    assert devices.has_bfloat16(torch.device(device)) is expected
