"""The devices of this machine: which one Lightning's names mean, and what it can do."""

import os
import shutil
import sys

import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator

from sports_lightning.errors import UserError


def require_compiler() -> None:
    """Say what `torch.compile` lacks before it fails in the midst of a run.

    Raises:
        UserError: no GPU, and no C++ compiler, which torch needs on a CPU.
    """
    compiler = os.environ.get("CXX", "g++" if sys.platform == "linux" else "clang++")
    if not torch.cuda.is_available() and not shutil.which(compiler):
        raise UserError(f"compile=true needs a C++ compiler ({compiler}) on a CPU: install one, or leave it out")


def device_type(accelerator: str) -> str:
    """torch's name for the device that Lightning's `accelerator` means here."""
    if accelerator in ("auto", "gpu"):
        return "cuda" if CUDAAccelerator.is_available() else "mps" if MPSAccelerator.is_available() else "cpu"
    return accelerator


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively (AMX or AVX-512-BF16); elsewhere it is slower by far."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
