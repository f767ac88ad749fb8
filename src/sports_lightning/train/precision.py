"""Training precision: the fastest on this machine among those that change results by rounding only.

Rules decide where they can, otherwise a short trial, whose outcome is cached. Images are always channels_last, the
fastest layout for most convolutions (docs/RESULTS.md). Where a GPU trains in bfloat16, its remaining float32 products
run in TF32. float16 is never chosen, because its range requires loss scaling, and neither is torch.compile
(model.compile=true), which takes a minute or more.
"""

import copy
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import cpu_has_bfloat16, device_type, synchronize
from sports_lightning.runs.process import Process
from sports_lightning.runs.provenance import processor
from sports_lightning.storage.disk_cache import cached_folder, fingerprint
from sports_lightning.train.module import ClassifierModule

PRECISION = "SPORTS_LIGHTNING_PRECISION"  # in the environment of the other processes of a distributed run
_TRIAL_BATCH = 8


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision of a run, and the reason for it.

    Attributes:
        precision: Lightning's name.
        why: the reason, in one line.
        images_per_second: {precision: rate} of the trial, where there was one.
    """

    precision: str
    why: str
    images_per_second: dict[str, float]

    def __str__(self) -> str:
        return f"{self.precision}, channels_last: {self.why}"


def choose_precision(precision: str, accelerator: str, module: ClassifierModule, cache_dir: Path) -> PrecisionChoice:
    """The precision for training `module`, which is `precision` itself unless that is "auto".

    Args:
        precision: `trainer.precision`; Lightning takes 16, 32 and 64 too.
        accelerator: `trainer.accelerator`, Lightning's name.
        module: the model to train; it is not modified.
        cache_dir: `data.cache_dir`, where the outcome of a trial is cached per machine and model.
    """
    device = device_type(accelerator)
    choice = _choose(precision, device, module, cache_dir)
    if device == "cuda" and choice.precision == "bf16-mixed":  # chosen, requested, or that of a resumed run
        torch.set_float32_matmul_precision("high")
    return choice


def _choose(precision: str, device: str, module: ClassifierModule, cache_dir: Path) -> PrecisionChoice:
    if precision != "auto":
        if device == "cpu" and "bf16" in str(precision) and not cpu_has_bfloat16():
            return PrecisionChoice(
                precision, "requested, although this CPU only emulates bfloat16, many times slower", {}
            )
        return PrecisionChoice(precision, "requested", {})
    if PRECISION in os.environ:
        return PrecisionChoice(os.environ[PRECISION], "the choice of the first process", {})
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return PrecisionChoice("bf16-mixed", "this GPU has bfloat16 tensor cores", {})
        return PrecisionChoice("32-true", "this GPU has no bfloat16", {})
    if device != "cpu":
        return PrecisionChoice("32-true", f"the safe choice on {device}", {})
    if not cpu_has_bfloat16():
        return PrecisionChoice("32-true", "this CPU has no bfloat16 instructions", {})
    if Process.from_environment().world_size > 1:
        return PrecisionChoice(
            "32-true", "with torchrun or srun there is no trial, whose outcome may differ by rank", {}
        )
    return _by_trial(module, cache_dir)


def _by_trial(module: ClassifierModule, cache_dir: Path) -> PrecisionChoice:
    spec = module.classifier.spec
    trainable = [name for name, p in module.classifier.net.named_parameters() if p.requires_grad]
    # Not the code: an edit would repeat the trial, whose outcome may differ from that of the last run.
    key_parts = [processor(), torch.__version__, torch.get_num_threads(), spec.architecture, spec.arguments]
    key = fingerprint([*key_parts, spec.preprocessing["size"], trainable])

    def build(folder: Path) -> None:
        (folder / "rates.json").write_text(json.dumps(_trial(module)), encoding="utf-8")

    try:
        rates = json.loads(
            (cached_folder(cache_dir, "precision", key, build) / "rates.json").read_text(encoding="utf-8")
        )
    except UserError:  # the cache cannot be written: the trial is repeated each time
        rates = _trial(module)
    full, half = rates["32-true"], rates["bf16-mixed"]
    # bfloat16 has to be clearly faster, because it rounds more and a trial as short as this is noisy.
    fastest = "bf16-mixed" if half > 1.2 * full else "32-true"
    return PrecisionChoice(
        fastest, f"bf16-mixed {half:.1f} img/s against {full:.1f} in 32-true, in a short trial", rates
    )


def _trial(module: ClassifierModule) -> dict[str, float]:
    """Images per second of training a copy of `module` in each precision: the median of three interleaved rounds."""
    module = copy.deepcopy(module).train()
    device = next(module.parameters()).device
    size = module.classifier.spec.preprocessing["size"]
    with torch.random.fork_rng(devices=[]):
        images = torch.randint(0, 256, (_TRIAL_BATCH, 3, *size), dtype=torch.uint8, device=device)
        labels = torch.arange(_TRIAL_BATCH, device=device) % len(module.classifier.spec.classes)
        rounds = [{name: step_rate(module, name, images, labels, 1) for name in precisions("cpu")} for _ in range(3)]
    return {name: statistics.median(rates[name] for rates in rounds) for name in rounds[0]}


def precisions(device: str) -> list[str]:
    """The precisions that may be fastest on this device (torch's name)."""
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else cpu_has_bfloat16()
    return ["32-true", "bf16-mixed"] if device != "mps" and has_bfloat16 else ["32-true"]


def step_rate(module: ClassifierModule, precision: str, images: Tensor, labels: Tensor, steps: int) -> float:
    """Images per second of `steps` training steps on one batch, after an untimed first step.

    Args:
        module: its weights do not change, but its BatchNorm statistics do.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        images: uint8 (n, 3, height, width), on the module's device.
        labels: int64 (n,), or float32 (n, classes).
        steps: number of timed steps.
    """
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0)
    training_step(module, optimizer, precision, images, labels)
    synchronize(images.device)
    started = time.perf_counter()
    for _ in range(steps):
        training_step(module, optimizer, precision, images, labels)
    synchronize(images.device)
    return len(images) * steps / (time.perf_counter() - started)


def training_step(
    module: ClassifierModule, optimizer: torch.optim.Optimizer, precision: str, images: Tensor, labels: Tensor
) -> None:
    """A training step like Lightning's, without Lightning."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    with torch.autocast(images.device.type, dtype, enabled=precision != "32-true"):
        loss = module.loss(module.classifier(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
