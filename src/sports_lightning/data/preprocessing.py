"""What a model expects of an image. Resolved once, from the model's own `pretrained_cfg`, and kept in the checkpoint.

Training, evaluation and prediction all read the same `Preprocessing`; nothing in here can be set a second time.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import timm.data
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class Preprocessing:
    """Size (height, width) in pixels, the part of the image that is kept, and the normalisation of 0..1 values."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str

    @classmethod
    def from_pretrained_cfg(cls, pretrained_cfg: Mapping[str, Any], image_size: int | None = None) -> "Preprocessing":
        """Read timm's `pretrained_cfg`; `image_size` (pixels a side) replaces the size in it."""
        overrides = {} if image_size is None else {"input_size": (3, image_size, image_size)}
        resolved = timm.data.resolve_data_config(overrides, pretrained_cfg=dict(pretrained_cfg))
        return cls(
            size=tuple(resolved["input_size"][1:]),
            mean=tuple(resolved["mean"]),
            std=tuple(resolved["std"]),
            interpolation=resolved["interpolation"],
            crop_pct=resolved["crop_pct"],
            crop_mode=resolved["crop_mode"],
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for a checkpoint or a config."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def least_side(self) -> int:
        """Pixels a side below which an image is not scaled while it is decoded: twice what the model sees.

        So there is enough left to choose from for an antialiased resize, and for a random crop of a quarter.
        """
        return 2 * max(math.ceil(side / self.crop_pct) for side in self.size)

    def transform(self) -> Callable[[Tensor], Tensor]:
        """The deterministic transform: uint8 (3, h, w) of any size to uint8 (3, *size)."""
        return ResizeAndCrop(**self.to_dict())


class ResizeAndCrop:
    """Resize and crop to the model's size, as timm does it: "center", "squash" or "border" (crop_mode).

    Takes the fields of a `Preprocessing`, so that an augmentation can begin with it (see conf/augment/none.yaml).
    """

    def __init__(self, size: list[int], interpolation: str, crop_pct: float, crop_mode: str, **_: Any) -> None:
        self.size = list(size)
        self.scaled = [int(side / crop_pct) for side in size]
        self.crop_mode = crop_mode
        self.interpolation = v2.InterpolationMode(interpolation)

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (3, h, w) to uint8 (3, *size)."""
        height, width = image.shape[-2:]
        tall, wide = self.scaled
        if self.crop_mode == "squash":
            target = [tall, wide]
        elif (tall * width >= wide * height) == (self.crop_mode == "center"):  # the height decides
            target = [tall, tall * width // height]
        else:
            target = [wide * height // width, wide]
        if target != [height, width]:
            image = F.resize(image, target, self.interpolation, antialias=True)
        return F.center_crop(image, self.size)
