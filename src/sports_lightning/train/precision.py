"""Training precision: the fastest on this machine among those that change results by rounding only.

Rules decide where they can, otherwise a short trial, whose outcome is cached. Where the outputs of a frozen part are
cached, the training steps on its outputs are tried; `pass_choice` chooses for the pass through that part. Images are
always channels_last, the fastest layout for most convolutions (docs/RESULTS.md). Where a GPU trains in bfloat16, its
remaining float32 products run in TF32. float16 is never chosen, because its range requires loss scaling, and neither is
torch.compile (model.compile=true), which takes a minute or more.
"""

import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import device_type, has_bfloat16, synchronize
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.precision import clearly_fastest, compare_rates
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn
from sports_lightning.runs.process import Process
from sports_lightning.runs.provenance import processor
from sports_lightning.storage.disk_cache import cached_folder, fingerprint
from sports_lightning.train.module import ClassifierModule

PRECISION = "SPORTS_LIGHTNING_PRECISION"  # in the environment of the other processes of a distributed run
_TRIAL_BATCH = 8  # images of a step of the whole model


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision of a run, and the reason for it.

    Attributes:
        precision: Lightning's name; None: Lightning's default, or what one of `trainer.plugins` determines.
        why: the reason, in one line.
        images_per_second: {precision: rate} of the trial, where there was one.
    """

    precision: str | None
    why: str
    images_per_second: dict[str, float]

    def __str__(self) -> str:
        return f"{self.precision}, channels_last: {self.why}"


def standard_name(precision: str | int | None) -> str | None:
    """Lightning's name of a precision for which it has other names too, such as "32-true" for 32."""
    names = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
    return None if precision is None else names.get(str(precision), str(precision))


def choose_precision(
    precision: str | int | None, accelerator: str, module: ClassifierModule, cache_dir: Path, batch_size: int = 32
) -> PrecisionChoice:
    """The precision for training `module`, which is `precision` itself unless that is "auto".

    Args:
        precision: `trainer.precision`.
        accelerator: `trainer.accelerator`, Lightning's name.
        module: the model to train, with the part whose outputs will be cached; it is not modified.
        cache_dir: `data.cache_dir`, where the outcome of a trial is cached per machine and model.
        batch_size: of the training steps on cached outputs.
    """
    device = device_type(accelerator)
    choice = _choose(standard_name(precision), device, module, cache_dir, batch_size)
    if device == "cuda" and choice.precision == "bf16-mixed":  # chosen, requested, or that of a resumed run
        torch.set_float32_matmul_precision("high")
    return choice


def _choose(
    precision: str | None, device: str, module: ClassifierModule, cache_dir: Path, batch_size: int
) -> PrecisionChoice:
    if precision != "auto":
        if device == "cpu" and "bf16" in str(precision) and not has_bfloat16(torch.device(device)):
            return PrecisionChoice(
                precision, "requested, although this CPU only emulates bfloat16, many times slower", {}
            )
        return PrecisionChoice(precision, "requested", {})
    if PRECISION in os.environ:
        return PrecisionChoice(os.environ[PRECISION], "the choice of the first process", {})
    if device == "cuda":
        if has_bfloat16(torch.device(device)):
            return PrecisionChoice("bf16-mixed", "this GPU has bfloat16 tensor cores", {})
        return PrecisionChoice("32-true", "this GPU has no bfloat16", {})
    if device != "cpu":
        return PrecisionChoice("32-true", f"the safe choice on {device}", {})
    if not has_bfloat16(torch.device(device)):
        return PrecisionChoice("32-true", "this CPU has no bfloat16 instructions", {})
    if Process.from_environment().world_size > 1:
        return PrecisionChoice(
            "32-true", "with torchrun or srun there is no trial, whose outcome may differ by rank", {}
        )
    if isinstance(module.frozen, FrozenBackbone):
        return PrecisionChoice("32-true", "training a linear head takes negligible time", {})
    key = [asdict(module.frozen), batch_size] if module.frozen else []
    rates = cached_rates(module, cache_dir, key, lambda: _trial(module, batch_size))
    where = " on cached outputs" if module.frozen else ""
    return PrecisionChoice(clearly_fastest(rates), f"{compare_rates(rates)}{where}, in a short trial", rates)


def cached_rates(
    module: ClassifierModule, cache_dir: Path, more_key: list[Any], trial: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """The outcome of a trial, from the cache if this machine has tried the same before.

    Args:
        module: the model that is tried.
        cache_dir: `data.cache_dir`.
        more_key: what else the outcome depends on, as JSON values.
        trial: returns images per second, by the names of what is compared.
    """
    spec = module.classifier.spec
    trainable = [name for name, p in module.classifier.net.named_parameters() if p.requires_grad]
    # Not the code: an edit would repeat the trial, whose outcome may differ from that of the last run.
    key_parts = [processor(), torch.__version__, torch.get_num_threads(), spec.architecture, spec.arguments]
    key = fingerprint([*key_parts, spec.preprocessing["size"], trainable, *more_key])

    def build(folder: Path) -> None:
        (folder / "rates.json").write_text(json.dumps(trial()), encoding="utf-8")

    try:
        file = cached_folder(cache_dir, "precision", key, build) / "rates.json"
        rates: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    except UserError:  # the cache cannot be written: the trial is repeated each time
        rates = trial()
    return rates


def _trial(module: ClassifierModule, batch_size: int) -> dict[str, float]:
    """Images per second of training a copy of `module` in each precision: the median of three interleaved rounds.

    Where outputs of a frozen part are cached, the steps are on `batch_size` of them.
    """
    module = copy.deepcopy(module).train()
    device = next(module.parameters()).device
    size = module.classifier.spec.preprocessing["size"]
    with torch.random.fork_rng(devices=[]):
        inputs = torch.randint(0, 256, (_TRIAL_BATCH, 3, *size), dtype=torch.uint8, device=device)
        if module.frozen:
            with torch.no_grad():
                outputs = module.frozen.run(fuse_conv_bn(module.classifier), inputs)
            inputs = outputs[torch.arange(batch_size) % _TRIAL_BATCH]
        labels = torch.arange(len(inputs), device=device) % len(module.classifier.spec.classes)
        rounds = [{name: step_rate(module, name, inputs, labels, 1) for name in precisions("cpu")} for _ in range(3)]
    return {name: statistics.median(rates[name] for rates in rounds) for name in rounds[0]}


def precisions(device: str) -> list[str]:
    """The precisions that may be fastest on this device (torch's name)."""
    return ["32-true", "bf16-mixed"] if has_bfloat16(torch.device(device)) else ["32-true"]


def step_rate(
    module: ClassifierModule,
    precision: str | None,
    images: Tensor,
    labels: Tensor,
    steps: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> float:
    """Images per second of `steps` training steps on one batch, after an untimed first step.

    Args:
        module: its weights do not change, but its BatchNorm statistics do.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        images: uint8 (n, 3, height, width), on the module's device; or outputs of its frozen part, if it has one.
        labels: int64 (n,), or float32 (n, classes).
        steps: number of timed steps.
        optimizer: of the module's parameters, with a learning rate of 0; None: SGD.
    """
    optimizer = optimizer or torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0)
    training_step(module, optimizer, precision, images, labels)
    synchronize(images.device)
    started = time.perf_counter()
    for _ in range(steps):
        training_step(module, optimizer, precision, images, labels)
    synchronize(images.device)
    return len(images) * steps / (time.perf_counter() - started)


def training_step(
    module: ClassifierModule, optimizer: torch.optim.Optimizer, precision: str | None, images: Tensor, labels: Tensor
) -> None:
    """A training step like Lightning's, without Lightning."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    with torch.autocast(images.device.type, dtype, enabled="mixed" in str(precision)):
        loss = module.loss(module(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
