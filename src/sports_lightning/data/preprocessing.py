"""A model's image preprocessing: resolved once from its `pretrained_cfg` (timm) and stored in the checkpoint.

Training, evaluation and prediction all read the same `Preprocessing`; none of its values can be set a second time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import timm.data
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MAX_ASPECT_RATIO = 20  # of the part of an image that is resized before a center crop


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input, in timm's terms.

    Attributes:
        size: (height, width) of the input in pixels.
        mean, std: normalization of the network's channels, for values in 0..1: three, or one for a gray image.
        interpolation: "bilinear", "bicubic", … (see `torchvision.transforms.InterpolationMode`).
        crop_pct: share of the resized image that the crop keeps.
        crop_mode: "center", "squash" or "border".
        value_range: the values of 16- and 32-bit pixels that become black and white; None: 0 and 65535 for 16 bits.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    value_range: tuple[float, float] | None = None

    @classmethod
    def from_pretrained_cfg(cls, pretrained_cfg: Mapping[str, Any], channels: int = 3) -> "Preprocessing":
        """Read timm's `pretrained_cfg`, for a network of one or three channels.

        A gray image is normalized by the averages over the three channels, because timm sums the weights of the first
        convolution over them.
        """
        resolved = timm.data.resolve_data_config({"in_chans": channels}, pretrained_cfg=dict(pretrained_cfg))
        mean, std = tuple(resolved["mean"]), tuple(resolved["std"])
        if channels == 1:
            mean, std = (fmean(mean),), (fmean(std),)
        return cls(
            size=tuple(resolved["input_size"][1:]),
            mean=mean,
            std=std,
            interpolation=resolved["interpolation"],
            crop_pct=resolved["crop_pct"],
            crop_mode=resolved["crop_mode"],
        )

    def changed(self, size: tuple[int, int] | None, crop_mode: str | None) -> "Preprocessing":
        """A copy with another (height, width) and crop mode; None keeps the present one.

        A chosen "squash" or "border" keeps the whole image, also where the model's own `crop_pct` would crop it.
        """
        whole = crop_mode in ("squash", "border")
        return replace(
            self,
            size=size or self.size,
            crop_mode=crop_mode or self.crop_mode,
            crop_pct=1.0 if whole else self.crop_pct,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`, also for a part of a config, whose lists are OmegaConf's."""
        is_list = {k: isinstance(v, Sequence) and not isinstance(v, str) for k, v in values.items()}
        fields: dict[str, Any] = {k: tuple(v) if is_list[k] else v for k, v in values.items()}
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for a checkpoint or a config."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def least_side(self) -> int:
        """Shortest side in pixels that decoding must keep (see `decode`): twice the side that the model resizes to.

        This leaves enough pixels for an antialiased resize, and for a random crop of a quarter of the image.
        """
        return 2 * max(math.ceil(side / self.crop_pct) for side in self.size)

    def transform(self) -> "ResizeAndCrop":
        """The deterministic evaluation transform: uint8 (3, h, w) of any size to uint8 (3, *size)."""
        return ResizeAndCrop(**self.to_dict())


class ResizeAndCrop:
    """Resize and crop to the model's input size as timm's evaluation transform does ("center", "squash", "border").

    The arguments are the fields of a `Preprocessing`, so that an augmentation can start with this transform (see
    conf/augment/none.yaml). Memory and time are bounded for any aspect ratio: where one side is more than 20 times as
    long as the other, "center" uses only its middle; "border" resizes no side to less than one pixel, and pads with the
    color `mean`.
    """

    def __init__(
        self,
        size: list[int],
        interpolation: str,
        crop_pct: float,
        crop_mode: str,
        mean: Sequence[float] = (0, 0, 0),
        **_: Any,
    ) -> None:
        self.size = list(size)
        self.fill = [round(255 * value) for value in (mean if len(mean) == 3 else [*mean] * 3)]
        self.scaled = [int(side / crop_pct) for side in size]
        self.crop_mode = crop_mode
        self.interpolation = v2.InterpolationMode(interpolation)

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (3, h, w) to uint8 (3, *size)."""
        if self.crop_mode == "center":
            image = self._limit_aspect_ratio(image)
        height, width = image.shape[-2:]
        tall, wide = self.scaled
        if self.crop_mode == "squash":
            target = [tall, wide]
        elif (tall * width >= wide * height) == (self.crop_mode == "center"):  # the height decides
            target = [tall, self._other_side(tall * width, height)]
        else:
            target = [self._other_side(wide * height, width), wide]
        if target != [height, width]:
            image = F.resize(image, target, self.interpolation, antialias=True)
        return F.center_crop(self._pad(image), self.size)

    def _other_side(self, product: int, side: int) -> int:
        """The side that keeps the aspect ratio, rounded as by timm: down for a center crop to a square."""
        rounds_down = self.crop_mode == "center" and self.scaled[0] == self.scaled[1]
        return max(1, product // side if rounds_down else round(product / side))

    def _pad(self, image: Tensor) -> Tensor:
        """Pad an image to the input size where it is smaller."""
        down, right = (max(0, side - own) for side, own in zip(self.size, image.shape[-2:], strict=True))
        if not down and not right:
            return image
        return F.pad(image, [right // 2, down // 2, right - right // 2, down - down // 2], fill=self.fill)

    def _limit_aspect_ratio(self, image: Tensor) -> Tensor:
        """The middle of a very long image, still several times longer than the center crop that follows."""
        height, width = image.shape[-2:]
        tall, wide = self.scaled
        limit = MAX_ASPECT_RATIO * max(1, -(-tall // wide), -(-wide // tall))
        if max(height, width) <= limit * min(height, width):
            return image
        return F.center_crop(image, [min(height, limit * width), min(width, limit * height)])
