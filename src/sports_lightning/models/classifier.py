"""A backbone with everything that is needed to use it: classes, preprocessing, normalisation. Built, saved and loaded.

What a checkpoint says of itself is plain data under the key "sports_lightning": an architecture's name and arguments,
looked up in timm. Loading one never imports or runs anything that it names.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

import sports_lightning.models  # noqa: F401  (registers our own backbones with timm)
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.errors import UserError
from sports_lightning.models.pretrained import WAYS_TO_WEIGHTS, check_hub, load_weights, short_message
from sports_lightning.runs.checkpoint_files import REMEDY, load_checkpoint, save_checkpoint
from sports_lightning.storage.files import checkpoint_file

CHECKPOINT_KEY = "sports_lightning"
_PREFIX = "classifier."  # of its weights in a state dict of the module that trains it


@dataclass(frozen=True)
class ClassifierSpec:
    """What a classifier is, apart from its weights; goes into the checkpoint as plain data.

    Attributes:
        architecture: name in timm's registry, which has ours too.
        arguments: further arguments of `timm.create_model`.
        classes: names, in the order of the logits.
        preprocessing: fields of `Preprocessing`.
        data_root: absolute path of the data it was trained on, the default for `evaluate`.
        trained_on: fingerprint of the training images (`Index.fingerprint`), by which leaks are told.
        temperature: what logits are divided by, once it has been fitted (see calibration).
    """

    architecture: str
    arguments: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    data_root: str
    trained_on: str = ""
    temperature: float = 1.0


class Classifier(nn.Module):
    """uint8 images in, logits out: normalises on the device, then runs the backbone.

    Args:
        net: backbone with its head, normalised float images to logits.
        spec: what it is.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: ClassifierSpec) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.spec = spec
        preprocessing = Preprocessing.from_dict(spec.preprocessing)
        # In units of the uint8 pixels. Not in the state dict: the spec holds them.
        self.register_buffer("mean", torch.tensor(preprocessing.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to logits (n, classes)."""
        return self.calibrate(self.net(self._normalise(images)))

    def calibrate(self, logits: Tensor) -> Tensor:
        """Divide logits by the temperature, in float32 or better, so that reduced precision rounds them only once."""
        if self.spec.temperature == 1.0:
            return logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.spec.temperature

    def maps(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to what timm's `forward_features` gives: mostly maps (n, channels, h, w)."""
        return self.net.forward_features(self._normalise(images))  # type: ignore[operator]

    def features(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to what the last layer works on, (n, features), by timm's `forward_head`."""
        return self.net.forward_head(self.maps(images), pre_logits=True)  # type: ignore[operator]

    def head(self, features: Tensor) -> Tensor:
        """The last layer: features (n, features) to logits (n, classes)."""
        drop_rate = getattr(self.net, "drop_rate", 0.0)
        return self.calibrate(self.net.get_classifier()(F.dropout(features, drop_rate, self.training)))  # type: ignore[operator]

    def _normalise(self, images: Tensor) -> Tensor:
        width = images.shape[-1]
        rows = images.permute(0, 2, 3, 1).flatten(2)  # one dimension of width · 3, for three values are a slow one
        rows = (rows.to(self.mean.dtype) - self.mean.repeat(width)) / self.std.repeat(width)
        return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)


def build_classifier(model: DictConfig, classes: list[str], data_root: Path) -> Classifier:
    """The untrained or pretrained classifier of `conf/model/*.yaml`, with a new head for `classes`.

    Raises:
        UserError: an unknown name, weights that are missing, unreachable or do not fit.
    """
    arguments: dict[str, Any] = dict(OmegaConf.to_container(model.arguments))  # type: ignore[arg-type]
    cfg = timm.get_pretrained_cfg(model.name, allow_unregistered=True)
    if model.image_size and cfg is not None and cfg.fixed_input_size:
        arguments["img_size"] = model.image_size
    net = _create(model.name, arguments, len(classes), model.pretrained, model.weights)
    preprocessing = Preprocessing.from_pretrained_cfg(net.pretrained_cfg, model.image_size)  # type: ignore[arg-type]
    spec = ClassifierSpec(model.name, arguments, list(classes), preprocessing.to_dict(), str(data_root.absolute()))
    return Classifier(net, spec)


def load_classifier(ckpt_path: str | Path) -> Classifier:
    """The classifier in a checkpoint that `train` wrote, in eval mode, on the CPU. Never runs code from the file.

    Raises:
        UserError: no such file, not a checkpoint, or not one of ours.
    """
    path = checkpoint_file(ckpt_path)
    checkpoint = load_checkpoint(path)
    if CHECKPOINT_KEY not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of sports_lightning; {REMEDY}")
    try:
        spec = ClassifierSpec(**checkpoint[CHECKPOINT_KEY])
        _check_arguments(spec, path)
        classifier = Classifier(_create(spec.architecture, spec.arguments, len(spec.classes), False, None), spec)
        state = {k.removeprefix(_PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(_PREFIX)}
        classifier.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds weights that do not fit its architecture; {REMEDY}") from error
    return classifier.eval()


def _check_arguments(spec: ClassifierSpec, path: Path) -> None:
    """Refuse arguments by which `timm.create_model` would read other files or addresses."""
    for name, value in spec.arguments.items():
        plain = all(isinstance(v, str | int | float | None) for v in (value if isinstance(value, list) else [value]))
        if name.startswith(("pretrained", "checkpoint", "cache")) or not plain:
            raise UserError(f"{path} asks for {name}={value}, which no checkpoint of this project does; {REMEDY}")


def save_classifier(classifier: Classifier, ckpt_path: Path) -> None:
    """Write weights and spec into a checkpoint that `train` wrote of the same classifier, in one step."""
    checkpoint = load_checkpoint(ckpt_path)
    checkpoint[CHECKPOINT_KEY] = asdict(classifier.spec)
    checkpoint["state_dict"].update({f"{_PREFIX}{name}": value for name, value in classifier.state_dict().items()})
    save_checkpoint(checkpoint, ckpt_path)


def _create(name: str, arguments: dict[str, Any], num_classes: int, pretrained: bool, weights: str | None) -> nn.Module:
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        hint = f" Did you mean {', '.join(close)}?" if close else " timm.list_models() has the names."
        raise UserError(f"model.name={name} is not known to timm.{hint}")
    from_hub = pretrained and not weights
    if from_hub:
        check_hub(name)
    try:
        net = timm.create_model(name, pretrained=from_hub, num_classes=num_classes, **arguments)
    except (TypeError, RuntimeError, OSError) as error:
        if from_hub and not isinstance(error, TypeError):  # which is of an argument that the model has not got
            raise UserError(f"can't get the weights of {name}: {short_message(error)}; {WAYS_TO_WEIGHTS}") from error
        raise UserError(f"model.arguments={arguments} do not fit {name}: {short_message(error)}") from error
    if weights:
        load_weights(net, Path(weights).expanduser())
    return net
