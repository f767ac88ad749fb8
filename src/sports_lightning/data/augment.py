"""Augmentation: transforms built from `conf/augment/`, and those that torchvision does not provide.

An augmentation is a list of `torchvision.transforms.v2` transforms in `conf/augment/`; a new one needs no code. Each
transform takes a uint8 tensor (3, h, w) and draws from torch's global generator, which the dataset seeds per image.
"""

import math
from collections.abc import Callable

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F_v2


def build_transform(augment: DictConfig, size: int | None = None) -> v2.Compose:
    """Build the training transform of `conf/augment/*.yaml`.

    Args:
        augment: the config; `augment.preprocessing` holds the model's `Preprocessing`.
        size: the shorter side in pixels, instead of that of the model's input size.
    """
    if size:  # a new root config: in a copied node, interpolations would still resolve against the original root
        augment = OmegaConf.create({"augment": OmegaConf.to_container(augment)}).augment
        sides = augment.preprocessing.size
        augment.preprocessing.size = [round(size * side / min(sides)) for side in sides]
    return v2.Compose(
        [instantiate(transform, _convert_="all") for transform in augment.transforms.values() if transform]
    )


class EpochTransform:
    """The training transform of each epoch, whose size grows with `augment.progressive_sizes` (progressive resizing).

    Training on small images first costs a fraction of the computation (Howard 2018, fast.ai's DAWNBench entry; Tan
    and Le 2021, EfficientNetV2).
    """

    def __init__(self, augment: DictConfig) -> None:
        sizes = {0: None, **dict(augment.progressive_sizes)}
        self.transforms = {epoch: build_transform(augment, size) for epoch, size in sorted(sizes.items())}

    def __call__(self, epoch: int) -> Callable[[Tensor], Tensor]:
        """The transform of `epoch`, from uint8 (3, h, w) to uint8 (3, height, width)."""
        return self.transforms[max(first for first in self.transforms if first <= epoch)]


def build_mix(augment: DictConfig, num_classes: int) -> "PairMix | None":
    """Mixup and CutMix as configured, or None if both are off."""
    if not augment.mixup and not augment.cutmix:
        return None
    return PairMix(num_classes, augment.mixup, augment.cutmix)


class PairMix:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of two images.

    It draws as torchvision's `MixUp` and `CutMix` do and is bit-identical to them, in about half of the time.

    Args:
        num_classes: length of the target.
        mixup: alpha of the Beta distribution of the mixing ratio; 0 turns mixup off.
        cutmix: the same for CutMix; if both are on, one of the two is drawn for each image.
    """

    def __init__(self, num_classes: int, mixup: float, cutmix: float) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.choices = [kind(alpha=float(alpha), num_classes=num_classes) for kind, alpha in kinds if alpha]
        self.num_classes = num_classes

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (2, 3, h, w) and int64 (2,) to uint8 (3, h, w) and float32 (classes,)."""
        choice = self.choices[int(torch.randint(len(self.choices), ()))]
        draws = choice.make_params([images])
        image, partner = images
        if isinstance(choice, v2.CutMix):
            share, (left, top, right, bottom) = draws["lam_adjusted"], draws["box"]
            mixed = image.clone()
            mixed[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
        else:
            share = draws["lam"]
            mixed = partner.float().mul_(1.0 - share).add_(image.float().mul_(share)).round_().to(torch.uint8)
        target = torch.zeros(self.num_classes)
        target[labels[1]] = 1.0 - share
        target[labels[0]] += share
        return mixed, target


class RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's `RandomResizedCrop`, bit-identical, in two thirds of the time.

    Decoded images are channels-last. torch resizes that layout fastest if the crop is contiguous, and a crop is a
    view. Skipping torchvision's search for images among the arguments saves the same time once more.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (3, h, w) to uint8 (3, *size)."""
        draws = self.make_params([image])
        bottom, right = draws["top"] + draws["height"], draws["left"] + draws["width"]
        window = image[None, :, draws["top"] : bottom, draws["left"] : right]
        crop = window.contiguous(memory_format=torch.channels_last)[0]
        return F_v2.resize_image(crop, self.size, self.interpolation, antialias=self.antialias)


class RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """torchvision's `RandomHorizontalFlip`, bit-identical, in a third of the time."""

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (3, h, w) to uint8 (3, h, w)."""
        return image.flip(-1) if torch.rand(1) < self.p else image


class KerasAffine:
    """Random rotation, shift, shear and zoom as in `keras.preprocessing.image.ImageDataGenerator`, in one resampling.

    Bilinear; pixels outside the image repeat the edge (`fill_mode="nearest"`). The zooms of x and y are independent.
    The matrix is rotation · shift · shear · zoom about the center, in (row, column) coordinates, from output to input
    (keras-preprocessing, `apply_affine_transform`).

    Args:
        degrees: rotation, uniform in ±degrees.
        shift: uniform in ±shift, as a fraction of the height and of the width.
        shear: uniform in ±shear degrees (Keras takes degrees, so 0.2 has almost no effect).
        zoom: uniform in 1 ± zoom, for each axis.
    """

    def __init__(self, degrees: float = 0, shift: float = 0, shear: float = 0, zoom: float = 0) -> None:
        self.degrees, self.shift, self.shear, self.zoom = degrees, shift, shear, zoom

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (3, h, w) to uint8 (3, h, w)."""
        height, width = image.shape[-2:]
        rotate, shift_y, shift_x, slant, zoom_y, zoom_x = (torch.rand(6, dtype=torch.float64) * 2 - 1).tolist()
        angle, slant = math.radians(rotate * self.degrees), math.radians(slant * self.shear)
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        shear = torch.tensor([[1, -math.sin(slant)], [0, math.cos(slant)]])
        zoom = torch.diag(torch.tensor([1 + zoom_y * self.zoom, 1 + zoom_x * self.zoom]))
        linear = rotation @ shear @ zoom
        offset = rotation @ torch.tensor([shift_y * self.shift * height, shift_x * self.shift * width])

        # grid_sample takes (x, y) in -1..1 about the center: swap the axes and divide pixels by half the size.
        half = torch.tensor([width / 2, height / 2])
        matrix = linear.flip(0, 1) * half[None, :] / half[:, None]
        theta = torch.cat([matrix, (offset.flip(0) / half)[:, None]], dim=1)[None]
        grid = F.affine_grid(theta, [1, 3, height, width], align_corners=False)
        moved = F.grid_sample(image[None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        return moved[0].round().to(torch.uint8)
