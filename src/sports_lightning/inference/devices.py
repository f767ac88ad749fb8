"""The devices of this machine: Lightning's names for them and what they support."""

import os
import shutil
import sys

import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator

from sports_lightning.errors import UserError


def require_compiler() -> None:
    """Check that `torch.compile` can work, before it fails during a run.

    Raises:
        UserError: there is no GPU and no C++ compiler, which torch needs on a CPU.
    """
    compiler = os.environ.get("CXX", "g++" if sys.platform == "linux" else "clang++")
    if not torch.cuda.is_available() and not shutil.which(compiler):
        raise UserError(f"compile=true needs a C++ compiler ({compiler}) on a CPU: install one, or set compile=false")


def device_type(accelerator: str) -> str:
    """The name in torch of the device that Lightning's `accelerator` selects on this machine."""
    if accelerator in ("auto", "gpu"):
        return "cuda" if CUDAAccelerator.is_available() else "mps" if MPSAccelerator.is_available() else "cpu"
    return accelerator


def has_device(accelerator: str) -> bool:
    """Whether this machine has a device for Lightning's `accelerator`."""
    found = {"gpu": device_type("gpu") != "cpu", "cuda": CUDAAccelerator.is_available()}
    return found.get(accelerator, accelerator != "mps" or MPSAccelerator.is_available())


def require_device(accelerator: str) -> None:
    """Raise UserError if this machine has no device for `inference.accelerator`."""
    if not has_device(accelerator):
        raise UserError(f"inference.accelerator={accelerator}: there is no such device here; leave it out, or set cpu")


def select_device(device: torch.device) -> None:
    """Use this GPU for everything in this process that names no GPU by number, such as inference."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def inference_devices(accelerator: str) -> int | list[int]:
    """What Lightning's Trainer takes as `devices` for one device: the selected GPU, or one device of another type."""
    return [torch.cuda.current_device()] if device_type(accelerator) == "cuda" else 1


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively (AMX or AVX-512-BF16); emulation is far slower."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices natively; MPS counts as one that does not."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bfloat16()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
