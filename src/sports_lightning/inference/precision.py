"""The precision of inference: `inference.precision=auto` uses bfloat16 where that is clearly faster."""

import logging
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sports_lightning.data.dataset_index import Split
from sports_lightning.inference.devices import device_type, has_bfloat16, require_device, synchronize
from sports_lightning.inference.exported import AnyClassifier, ExportedModel
from sports_lightning.inference.input_files import InputFiles
from sports_lightning.inference.predictor import pad_batch
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn

log = logging.getLogger(__name__)

_TRIAL_IMAGES = 64
_ROUNDS = 3
_CLEARLY_FASTER = 1.2  # bfloat16 rounds more, and a trial as short as this is noisy


@dataclass(frozen=True)
class PrecisionTrial:
    """What bfloat16 changes on some images.

    Attributes:
        images: their number.
        images_per_second: {precision: rate}.
        difference: largest difference of a probability.
        top1_changes: number of images whose most probable class changes.
    """

    images: int
    images_per_second: dict[str, float]
    difference: float
    top1_changes: int

    def __str__(self) -> str:
        return (
            f"{compare_rates(self.images_per_second)}; on {self.images} images probabilities differ "
            f"by at most {self.difference:.1e}, and the most probable class of {self.top1_changes}"
        )


def clearly_fastest(rates: dict[str, float]) -> str:
    """The name to be used, by the images per second of each: the first, unless a later one is clearly faster."""
    chosen, *others = rates
    for name in others:
        if rates[name] > _CLEARLY_FASTER * rates[chosen]:
            chosen = name
    return chosen


def compare_rates(rates: dict[str, float]) -> str:
    """The images per second of each name, in words, the fastest first."""
    fastest, *others = sorted(rates, key=lambda name: -rates[name])
    return f"{fastest} {rates[fastest]:.1f} img/s against " + ", ".join(f"{rates[x]:.1f} in {x}" for x in others)


def choose_inference_precision(
    classifier: AnyClassifier, files: InputFiles, inference: DictConfig
) -> tuple[DictConfig, dict[str, Any]]:
    """The settings with a precision instead of "auto", and a record of the choice and of what it changes.

    On a CPU, and on a GPU with bfloat16, the first images are run in both precisions. A CPU that only emulates bfloat16
    and an exported file stay in float32.

    Args:
        classifier: as `load_classifier` or `open_classifier` returns it.
        files: the images that will be run.
        inference: `conf/inference/*.yaml`; it is not modified.

    Returns:
        The settings, and {"precision", "why", and with a trial the fields of `PrecisionTrial`}; without "auto", the
        settings as they are and an empty record.

    Raises:
        UserError: there is no such device.
    """
    if inference.precision != "auto":
        return inference, {}
    require_device(inference.accelerator)
    device = torch.device(device_type(inference.accelerator))
    precision, trial = "32-true", None
    if isinstance(classifier, ExportedModel):
        why = "an exported file has its own precision"
    elif not has_bfloat16(device):
        why = f"this {device.type.upper()} has no bfloat16 instructions"
    else:
        trial = _try_both(classifier, files, inference, device)
        precision = clearly_fastest(trial.images_per_second)
        why = str(trial)
    log.info("inference.precision=auto: %s, since %s", precision, why)
    chosen: Any = OmegaConf.merge(inference, {"precision": precision})
    return chosen, {"precision": precision, "why": why, **(asdict(trial) if trial else {})}


def choose_for_split(
    classifier: AnyClassifier, root: Path, split: Split, inference: DictConfig
) -> tuple[DictConfig, dict[str, Any]]:
    """As `choose_inference_precision`, by images that are spread over a split whose paths are relative to `root`."""
    paths = [os.path.join(root, path) for path in split.spread(_TRIAL_IMAGES).paths]
    return choose_inference_precision(classifier, InputFiles(paths, classifier.preprocessing), inference)


def _try_both(classifier: Classifier, files: InputFiles, inference: DictConfig, device: torch.device) -> PrecisionTrial:
    """Run the first readable images in both precisions, interleaved, in the batches of the real run."""
    model = fuse_conv_bn(classifier).to(device)
    read = files.__getitems__(range(min(_TRIAL_IMAGES, len(files))))
    black = torch.zeros(3, *classifier.preprocessing.size, dtype=torch.uint8)  # where there are videos only
    images = torch.stack([image for image, is_readable in read if is_readable] or [black])
    batches = [pad_batch(batch, inference.batch_size).to(device) for batch in images.split(inference.batch_size)]
    seconds: dict[str, list[float]] = {"32-true": [], "bf16-mixed": []}
    probabilities: dict[str, Tensor] = {}
    for _ in range(_ROUNDS):
        for name, measured in seconds.items():
            started = time.perf_counter()
            outputs = _forward(model, batches, device, name == "bf16-mixed")
            measured.append(time.perf_counter() - started)
            probabilities[name] = outputs[: len(images)].double().softmax(dim=1)
    full, half = probabilities.values()
    computed = inference.batch_size * len(batches)
    return PrecisionTrial(
        len(images),
        {name: computed / statistics.median(measured) for name, measured in seconds.items()},
        float((full - half).abs().max()),
        int((full.argmax(dim=1) != half.argmax(dim=1)).sum()),
    )


def _forward(model: Classifier, batches: list[Tensor], device: torch.device, is_bfloat16: bool) -> Tensor:
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16):
        outputs = torch.cat([model(batch).float() for batch in batches]).cpu()
    synchronize(device)
    return outputs
