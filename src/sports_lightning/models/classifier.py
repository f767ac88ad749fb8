"""An image classifier: a backbone with its classes, preprocessing and normalization; built, saved and loaded.

A checkpoint describes its classifier by plain data under the key "sports_lightning": the name and the arguments of an
architecture in timm's registry. Loading a checkpoint never imports or runs code that the checkpoint names.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from timm.models import split_model_name_tag
from torch import Tensor, nn
from torch.nn import functional as F

import sports_lightning.models  # noqa: F401  (registers our own backbones with timm)
from sports_lightning.data.class_names import normalize
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.value_range import ValueRange
from sports_lightning.errors import UserError
from sports_lightning.models.backbone import check_registry, create_backbone, resolve_backbone
from sports_lightning.models.freezing import head_names
from sports_lightning.models.pretrained import load_state, load_weights, pretrained_cfg, short_message
from sports_lightning.models.rejection import RejectionScore
from sports_lightning.models.weight_files import read_weight_file
from sports_lightning.runs.checkpoint_files import REMEDY, load_checkpoint, save_checkpoint
from sports_lightning.storage.files import best_checkpoint, checkpoint_file

log = logging.getLogger(__name__)

CHECKPOINT_KEY = "sports_lightning"
REJECTION_KEY = "sports_lightning_rejection"  # tensors of `Classifier.rejection`
SETS_KEY = "sports_lightning_prediction_sets"  # `Classifier.set_calibration`
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in gray (ITU-R BT.601, as in Pillow)
_PREFIX = "classifier."  # of the names of its weights in the state dict of the Lightning module


@dataclass(frozen=True)
class ClassifierSpec:
    """The description of a classifier without its weights, stored in checkpoints as plain data.

    Attributes:
        architecture: name in timm's registry, which includes the backbones of this package.
        arguments: further arguments of `timm.create_model`.
        classes: class names in the order of the logits.
        preprocessing: the fields of `Preprocessing`.
        data_root: absolute path of the training data, the default of `evaluate`.
        trained_on: fingerprint of the training images (`DatasetIndex.fingerprint`), needed to find leaks.
        temperature: divisor of the logits (see `evaluate.calibration`); 1 without calibration.
    """

    architecture: str
    arguments: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    data_root: str
    trained_on: str = ""
    temperature: float = 1.0


class Classifier(nn.Module):
    """Takes uint8 images and returns logits: normalizes on the device, then runs the backbone.

    Args:
        net: backbone with its head, from normalized float images (n, 3, height, width) to logits (n, classes).
        spec: its description.

    Attributes:
        rejection: the rejection score, fitted at the end of training; None before, and in earlier checkpoints.
        set_calibration: see `evaluate.conformal.calibrate_sets`; empty before the end of training.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, net: nn.Module, spec: ClassifierSpec) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.spec = spec
        self.rejection: RejectionScore | None = None
        self.set_calibration: dict[str, Tensor] = {}
        preprocessing = self.preprocessing
        self.is_gray = len(preprocessing.mean) == 1
        # In units of uint8 pixels. They are not in the state dict, because the spec holds them.
        self.register_buffer("mean", torch.tensor(preprocessing.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std) * 255, persistent=False)
        self.register_buffer("luma", torch.tensor(_LUMA).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width), RGB, to logits (n, classes)."""
        return self.calibrate(self.net(self._normalize(images)))

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""
        return Preprocessing.from_dict(self.spec.preprocessing)

    def set_value_range(self, value_range: ValueRange | None) -> None:
        """Set the values of 16- and 32-bit pixels that are black and white (see `choose_value_range`)."""
        preprocessing = replace(self.preprocessing, value_range=value_range)
        self.spec = replace(self.spec, preprocessing=preprocessing.to_dict())

    def set_crop_mode(self, crop_mode: str | None) -> None:
        """Look at images in another way than in training (see `Preprocessing.changed`); None keeps it."""
        if crop_mode not in (None, self.preprocessing.crop_mode):
            log.info(
                "crop_mode=%s instead of %s: probabilities, rejection and sets are calibrated for the latter",
                crop_mode, self.preprocessing.crop_mode,
            )  # fmt: skip
        self.spec = replace(self.spec, preprocessing=self.preprocessing.changed(None, crop_mode).to_dict())

    def calibrate(self, logits: Tensor) -> Tensor:
        """Divide logits by the temperature, in float32 or better, so that reduced precision rounds them only once."""
        if self.spec.temperature == 1.0:
            return logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.spec.temperature

    def maps(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to the output of timm's `forward_features`, usually maps (n, channels, h, w).

        Raises:
            UserError: a model without `forward_features`.
        """
        if not hasattr(self.net, "forward_features"):
            raise UserError(f"{self.spec.architecture} has no forward_features, which returns its feature maps")
        return self.net.forward_features(self._normalize(images))  # type: ignore[operator]

    def features(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to the input of the last layer, (n, features), by timm's `forward_head`.

        Raises:
            UserError: a model without `forward_features` or `forward_head`.
        """
        if not hasattr(self.net, "forward_head"):
            raise UserError(f"{self.spec.architecture} has no forward_head, which returns its features")
        return self.net.forward_head(self.maps(images), pre_logits=True)  # type: ignore[operator]

    def head(self, features: Tensor) -> Tensor:
        """The last layer: features (n, features) to logits (n, classes)."""
        drop_rate = getattr(self.net, "drop_rate", 0.0)
        return self.calibrate(self.net.get_classifier()(F.dropout(features, drop_rate, self.training)))  # type: ignore[operator]

    def _normalize(self, images: Tensor) -> Tensor:
        width = images.shape[-1]
        if self.is_gray:
            return ((images.to(self.mean.dtype) * self.luma).sum(1, keepdim=True) - self.mean) / self.std
        rows = images.permute(0, 2, 3, 1).flatten(2)  # an inner dimension of 3 would be slow, one of 3 · width is fast
        rows = (rows.to(self.mean.dtype) - self.mean.repeat(width)) / self.std.repeat(width)
        return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)


def build_classifier(model: DictConfig, classes: list[str], data_root: Path) -> Classifier:
    """Build the classifier of `conf/model/*.yaml`, untrained or pretrained.

    The head is new, unless `model.weights` is a checkpoint of this package with the same classes.

    Raises:
        UserError: an unknown name; an image size that the network can't take; weights that are missing, unreachable or
            of another model.
    """
    source = resolve_backbone(model.name, dict(OmegaConf.to_container(model.arguments)))  # type: ignore[arg-type]
    arguments = dict(source.arguments)
    size = _image_size(model.image_size)
    if size and source.has_fixed_size:
        arguments["img_size"] = model.image_size if isinstance(model.image_size, int) else list(size)
    weights = best_checkpoint(Path(model.weights).expanduser()) if model.weights else None
    net = create_backbone(model.name, arguments, len(classes), model.pretrained and weights is None)
    channels = arguments.get("in_chans", 3)
    preprocessing = Preprocessing.from_pretrained_cfg(pretrained_cfg(net), channels)
    content = read_weight_file(weights) if weights else {}
    if weights and CHECKPOINT_KEY in content:
        preprocessing = _load_own_weights(net, source.architecture, content, classes, weights)
    elif weights:
        load_weights(net, source.architecture, weights, content, channels)
    stored = preprocessing.changed(size, model.crop_mode).to_dict()
    spec = ClassifierSpec(source.architecture, arguments, list(classes), stored, str(data_root.absolute()))
    classifier = Classifier(net, spec)
    if size:
        _check_size(classifier, f"model.image_size={model.image_size}")
    return classifier


def _check_size(classifier: Classifier, setting: str) -> None:
    """Raise UserError if the network can't take images of its input size."""
    image = torch.zeros(1, 3, *classifier.preprocessing.size, dtype=torch.uint8)
    try:
        with torch.no_grad():  # on the meta device only shapes are computed
            copy.deepcopy(classifier).eval().to("meta")(image.to("meta"))
    except Exception:  # of the size, or of a layer that the meta device does not have
        try:
            with torch.no_grad():
                copy.deepcopy(classifier).eval()(image)
        except NotImplementedError:  # a layer that the CPU does not have
            return
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(f"{setting} does not fit {classifier.spec.architecture}: {short_message(error)}") from error


def _image_size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """`model.image_size` as (height, width)."""
    if image_size is None or isinstance(image_size, int):
        return (image_size, image_size) if image_size else None
    height, width = image_size
    return height, width


def _load_own_weights(
    net: nn.Module, architecture: str, checkpoint: dict[str, Any], classes: list[str], path: Path
) -> Preprocessing:
    """Load the weights of a checkpoint into `net`, and return its preprocessing.

    The head is loaded if it has the same classes, in whatever order.
    """
    spec = ClassifierSpec(**checkpoint[CHECKPOINT_KEY])
    # Names such as resnet50 and resnet50.a1_in1k build the same network: the tag is that of timm's weights.
    if split_model_name_tag(spec.architecture)[0] != split_model_name_tag(architecture)[0]:
        raise UserError(f"model.weights={path} is a {spec.architecture}, and model.name={architecture}")
    state = {name.removeprefix("net."): value for name, value in _classifier_state(checkpoint).items()}
    before, now = ([normalize(name) for name in names] for names in (spec.classes, classes))
    head = set() if before == now else head_names(net)
    if sorted(before) == sorted(now):  # in another order
        order = [before.index(name) for name in now]
        state |= {name: state[name][order] for name in head if len(state[name]) == len(order)}
        head = set()
    if head:
        log.info("model.weights=%s is for other classes: training starts with a new head", path)
    load_state(net, architecture, state, head, path)
    return Preprocessing.from_dict(spec.preprocessing)


def _classifier_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of the classifier in a checkpoint, also of a model that was compiled."""
    state = checkpoint["state_dict"]
    return {
        name.removeprefix(_PREFIX).replace("_orig_mod.", ""): value
        for name, value in state.items()
        if name.startswith(_PREFIX)
    }


def load_classifier(ckpt_path: str | Path) -> Classifier:
    """Load the classifier in a checkpoint that `train` wrote, in eval mode, on the CPU, without running code from it.

    Raises:
        UserError: no such file, or not a checkpoint of this package.
    """
    path = checkpoint_file(ckpt_path)
    checkpoint = load_checkpoint(path)
    if CHECKPOINT_KEY not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of sports_lightning; {REMEDY}")
    try:
        spec = ClassifierSpec(**checkpoint[CHECKPOINT_KEY])
        _check_arguments(spec, path)
        check_registry(spec.architecture)
        classifier = Classifier(create_backbone(spec.architecture, spec.arguments, len(spec.classes), False), spec)
        classifier.load_state_dict(_classifier_state(checkpoint))
        if stored := checkpoint.get(REJECTION_KEY):
            classifier.rejection = RejectionScore(**stored)
        classifier.set_calibration = checkpoint.get(SETS_KEY, {})
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds weights that do not match its architecture; {REMEDY}") from error
    return classifier.eval()


def _check_arguments(spec: ClassifierSpec, path: Path) -> None:
    """Refuse arguments that would make `timm.create_model` read other files or addresses."""
    for name, value in spec.arguments.items():
        plain = all(isinstance(v, str | int | float | None) for v in (value if isinstance(value, list) else [value]))
        if name.startswith(("pretrained", "checkpoint", "cache")) or not plain:
            raise UserError(f"{path} asks for {name}={value}, which no checkpoint of this package does; {REMEDY}")


def save_classifier(classifier: Classifier, ckpt_path: Path) -> None:
    """Atomically replace weights and spec in a checkpoint that `train` wrote of the same classifier."""
    checkpoint = load_checkpoint(ckpt_path)
    checkpoint[CHECKPOINT_KEY] = asdict(classifier.spec)
    checkpoint[SETS_KEY] = classifier.set_calibration
    checkpoint[REJECTION_KEY] = classifier.rejection and classifier.rejection.tensors()
    checkpoint["state_dict"].update({f"{_PREFIX}{name}": value for name, value in classifier.state_dict().items()})
    save_checkpoint(checkpoint, ckpt_path)
