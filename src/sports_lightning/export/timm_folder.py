"""`timm/`: the network in timm's layout for the Hugging Face Hub, which `timm.create_model("local-dir:timm")` opens."""

import copy
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import save_for_hf
from torch import nn

from sports_lightning.errors import UserError
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.freezing import heads


def write_timm(classifier: Classifier, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`.

    The temperature is divided into the weights of the last layer, so that the softmax of timm's logits is the
    calibrated probabilities.

    Args:
        classifier: trained.
        folder: is created; an earlier one is replaced.

    Raises:
        UserError: a temperature, and a head without a linear layer or convolution.
    """
    spec, preprocessing = classifier.spec, classifier.preprocessing
    net: Any = copy.deepcopy(classifier.net).to(memory_format=torch.contiguous_format)  # as safetensors needs it
    if spec.temperature != 1:
        _divide(heads(net), spec.temperature)
    data = {name: value for name, value in preprocessing.to_dict().items() if name not in ("size", "value_range")}
    data["input_size"] = (len(preprocessing.mean), *preprocessing.size)
    config = {"num_classes": len(spec.classes), "label_names": spec.classes}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".timm-") as temporary:
        written = Path(temporary, "timm")
        save_for_hf(net, str(written), config, spec.arguments, safe_serialization=True, data_config=data)
        shutil.rmtree(folder, ignore_errors=True)
        written.rename(folder)


def _divide(layers: Sequence[nn.Module], temperature: float) -> None:
    """Divide the outputs of the heads of a network by a temperature."""
    for head in layers:
        affine = [layer for layer in head.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if not affine:
            raise UserError(
                f"format=timm: the temperature that calibrated this model cannot become part of its head, "
                f"{type(head).__name__}: leave timm out, or train with calibrate=false"
            )
        with torch.no_grad():
            for parameter in affine[-1].parameters():
                parameter.div_(temperature)
