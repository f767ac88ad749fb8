"""In which number format a model trains fastest on this machine, without changing a result beyond rounding.

Rules where they settle it, else a short trial, kept for the next run. Pictures are always laid out channels_last: for
convolutions it is the faster one on every processor that was measured (docs/RESULTS.md). A GPU's remaining float32
products run in TF32. What this does not do: float16, whose range needs a loss scale, and torch.compile, which takes a
minute or more before it pays (model.compile=true asks for it).
"""

import copy
import json
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator
from torch import Tensor

from sports_lightning.data.store import fingerprint, stored
from sports_lightning.errors import UserError
from sports_lightning.module import ClassifierModule

_TRIAL_BATCH = 8


@dataclass(frozen=True)
class Numerics:
    """What was chosen and why.

    Attributes:
        precision: Lightning's name.
        why: one line for people.
        images_per_second: of each precision, where there was a trial.
    """

    precision: str
    why: str
    images_per_second: dict[str, float]

    def __str__(self) -> str:
        return f"{self.precision}, channels_last: {self.why}"


def choose_numerics(precision: str, accelerator: str, module: ClassifierModule, cache_dir: Path) -> Numerics:
    """The precision for training `module`, which is `precision` itself unless that is "auto".

    Args:
        precision: `trainer.precision`.
        accelerator: `trainer.accelerator`, Lightning's name.
        module: what is to be trained; it is left as it is.
        cache_dir: `data.cache_dir`, where the outcome of a trial is kept for this machine and model.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    if precision != "auto":
        return Numerics(precision, "asked for", {})
    device = device_of(accelerator)
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Numerics("bf16-mixed", "this GPU has bfloat16 tensor cores", {})
        return Numerics("32-true", "this GPU has no bfloat16", {})
    if device != "cpu":
        return Numerics("32-true", f"the safe choice on {device}", {})
    if not cpu_has_bfloat16():
        return Numerics("32-true", "this CPU has no bfloat16 instructions", {})
    spec = module.classifier.spec
    learning = [name for name, p in module.classifier.net.named_parameters() if p.requires_grad]
    facts = [processor(), torch.__version__, torch.get_num_threads(), spec.architecture, spec.arguments]
    key = fingerprint([*facts, spec.preprocessing["size"], learning])

    def build(folder: Path) -> None:
        rates = {name: step_rate(module, name, _TRIAL_BATCH) for name in precisions("cpu")}
        (folder / "rates.json").write_text(json.dumps(rates), encoding="utf-8")

    rates = json.loads((stored(cache_dir, "numerics", key, build) / "rates.json").read_text(encoding="utf-8"))
    fastest, slowest = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    why = f"{rates[fastest]:.1f} img/s against {rates[slowest]:.1f} in {slowest}, tried on {_TRIAL_BATCH} pictures"
    return Numerics(fastest, why, rates)


def require_compiler() -> None:
    """Say what `torch.compile` lacks before it fails in the midst of a run.

    Raises:
        UserError: no GPU, and no C++ compiler, which torch needs on a CPU.
    """
    compiler = os.environ.get("CXX", "g++" if sys.platform == "linux" else "clang++")
    if not torch.cuda.is_available() and not shutil.which(compiler):
        raise UserError(f"compile=true needs a C++ compiler ({compiler}) on a CPU: install one, or leave it out")


def device_of(accelerator: str) -> str:
    """torch's name for the device that Lightning's `accelerator` means here."""
    if accelerator in ("auto", "gpu"):
        return "cuda" if CUDAAccelerator.is_available() else "mps" if MPSAccelerator.is_available() else "cpu"
    return accelerator


def precisions(device: str) -> list[str]:
    """The number formats that may pay on this device."""
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else cpu_has_bfloat16()
    return ["32-true", "bf16-mixed"] if device != "mps" and has_bfloat16 else ["32-true"]


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively (AMX or AVX-512-BF16); elsewhere it is slower by far."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def processor() -> str:
    """The CPU's name."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def step_rate(module: ClassifierModule, precision: str, batch_size: int, steps: int = 3) -> float:
    """Pictures a second of forward, backward and optimiser step on random pictures: the best of `steps`, after a first.

    Args:
        module: stays as it is.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        batch_size: pictures a step.
        steps: how many are timed.
    """
    module = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0)
    device = next(module.parameters()).device
    size = module.classifier.spec.preprocessing["size"]
    images = torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8, device=device)
    labels = torch.arange(batch_size, device=device) % len(module.classifier.spec.classes)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        training_step(module, optimizer, precision, images, labels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return batch_size / min(seconds[1:])


def training_step(
    module: ClassifierModule, optimizer: torch.optim.Optimizer, precision: str, images: Tensor, labels: Tensor
) -> None:
    """One step as Lightning makes it, without Lightning."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    with torch.autocast(images.device.type, dtype, enabled=precision != "32-true"):
        loss = module.loss(module.classifier(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
