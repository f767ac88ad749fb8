"""How the pass through a frozen part runs: the fastest of PyTorch and OpenVINO, and of the precisions, on this machine.

The candidates differ by rounding only. They are tried for a second or two, and the outcome is cached.
"""

import logging
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import device_type
from sports_lightning.inference.frozen_part import FrozenPart
from sports_lightning.inference.frozen_pass import FrozenPass, openvino_computes, require_openvino
from sports_lightning.inference.precision import clearly_fastest, compare_rates
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn
from sports_lightning.runs.process import Process
from sports_lightning.storage.disk_cache import installed_versions
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.precision import PrecisionChoice, cached_rates, precisions

log = logging.getLogger(__name__)

FROZEN_PASS = "SPORTS_LIGHTNING_FROZEN_PASS"  # in the environment of the other processes of a distributed run
_BATCH = 32  # images
_WORTH_A_TRIAL = 2000  # images; the trial and the conversion for OpenVINO take up to ten seconds


@dataclass(frozen=True)
class PassChoice:
    """How the pass through a frozen part runs, and the reason for it.

    Attributes:
        how: engine and precision.
        why: the reason, in one line.
        images_per_second: {candidate: rate} of the trial, where there was one.
    """

    how: FrozenPass
    why: str
    images_per_second: dict[str, float]

    def __str__(self) -> str:
        return f"pass through the frozen part in {self.how}: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for `run.json`."""
        return {**asdict(self.how), "why": self.why, "images_per_second": self.images_per_second}


def choose_pass(
    engine: str, precision: str | None, of_steps: PrecisionChoice, accelerator: str, module: ClassifierModule,
    images: int, cache_dir: Path,
) -> PassChoice:  # fmt: skip
    """How the pass through `module.frozen` runs.

    Args:
        engine: `finetune.engine`.
        precision: `trainer.precision`, standardized; with "auto", the pass has a precision of its own.
        of_steps: the precision of the training steps.
        accelerator: `trainer.accelerator`, Lightning's name.
        module: the model to train, with the part whose outputs will be cached; it is not modified.
        images: number of images that pass, with their fixed augmentations.
        cache_dir: `data.cache_dir`, where the outcome of a trial is cached per machine and model.

    Raises:
        UserError: OpenVINO is requested where it is missing or another device computes.
    """
    if FROZEN_PASS in os.environ:
        engine, precision = os.environ[FROZEN_PASS].split()
        return PassChoice(FrozenPass(engine, precision), "the choice of the first process", {})
    device = device_type(accelerator)
    is_alone = Process.from_environment().world_size == 1
    may_try = device == "cpu" and is_alone
    of_pass = precisions(device) if precision == "auto" and may_try else [of_steps.precision or "32-true"]
    fastest = of_pass[-1]  # if bfloat16 is fast here, it is with OpenVINO
    is_worth_it = may_try and images >= _WORTH_A_TRIAL and openvino_computes(fastest)
    engines = _engines(engine, device, is_worth_it)
    candidates = [FrozenPass("torch", each) for each in of_pass if "torch" in engines]
    candidates += [FrozenPass("openvino", fastest)] if "openvino" in engines else []
    if len(candidates) == 1:
        return PassChoice(candidates[0], _why_alone(engine, engines, is_worth_it), {})
    assert module.frozen
    part, tried = module.frozen, {str(each): each for each in candidates}
    key = [asdict(part), list(tried), installed_versions(["openvino"])]
    rates = cached_rates(module, cache_dir, key, lambda: _trial(module, part, candidates))
    return PassChoice(tried[clearly_fastest(rates)], f"{compare_rates(rates)}, in a short trial", rates)


def _engines(engine: str, device: str, may_try: bool) -> list[str]:
    if engine == "openvino":
        if device != "cpu":
            raise UserError(
                "finetune.engine=openvino runs on a CPU: set trainer.accelerator=cpu or finetune.engine=auto"
            )
        require_openvino()
        return ["openvino"]
    if engine == "auto" and may_try and find_spec("openvino"):
        return ["torch", "openvino"]
    return ["torch"]


def _why_alone(engine: str, engines: list[str], is_worth_it: bool) -> str:
    """Why there is one candidate only."""
    if engine == "auto" and is_worth_it and engines == ["torch"]:
        return "OpenVINO is not installed (pip install -e '.[openvino]'); it may be faster"
    return "no other engine or precision to choose from"


def _trial(module: ClassifierModule, part: FrozenPart, candidates: list[FrozenPass]) -> dict[str, float]:
    """Images per second of the pass by each candidate, the median of three interleaved rounds; 0 where it fails."""
    classifier = fuse_conv_bn(module.classifier)  # as the pass runs it
    size = classifier.spec.preprocessing["size"]
    images = torch.randint(0, 256, (_BATCH, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rates: dict[str, list[float]] = {str(each): [] for each in candidates}
    running = {each: each.function(part) for each in candidates}
    for is_timed in (False, True, True, True):
        for each, function in list(running.items()):
            try:
                rate = pass_rate(function, classifier, each, images)
            except UserError as error:
                log.info("%s", error)
                del running[each]
                continue
            if is_timed:
                rates[str(each)].append(rate)
    return {name: statistics.median(measured) if measured else 0.0 for name, measured in rates.items()}


def pass_rate(
    function: Callable[[Classifier, Tensor], Tensor], classifier: Classifier, settings: FrozenPass, images: Tensor
) -> float:
    """Images per second of a pass of one batch.

    Args:
        function: `settings.function(part)`.
        classifier: in eval mode.
        settings: engine and precision.
        images: uint8 (n, 3, height, width), on the classifier's device.
    """
    is_reduced = settings.precision != "32-true"
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=is_reduced):
        started = time.perf_counter()
        function(classifier, images)
        return len(images) / (time.perf_counter() - started)
