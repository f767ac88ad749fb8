"""The preprocessing of a checkpoint as tensor operations that can be exported, for images of any size.

The resize is that of torchvision for uint8 images on a CPU, to the bit: two passes of fixed-point arithmetic (as in
Pillow), the horizontal one first, each rounded to uint8. Here they are matrix products, which every format has. What
depends on the size of an image is computed as tensors, because the exporters cannot trace decisions on sizes.
"""

import torch
from torch import Tensor, nn

from sports_lightning.data.preprocessing import MAX_ASPECT_RATIO, Preprocessing
from sports_lightning.errors import UserError

_INTERPOLATIONS = ("bilinear", "bicubic")
_WEIGHT_BITS, _PRECISION_BITS = 15, 22  # of the fixed-point weights; at most so many after the binary point


class AnySizePreprocessing(nn.Module):
    """uint8 images (n, height, width, 3) of one size, as by `ResizeAndCrop`: float32 (n, 3, *size), 0..255.

    Args:
        preprocessing: of the checkpoint.

    Raises:
        UserError: an interpolation other than bilinear and bicubic.
    """

    fill: Tensor
    powers: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        transform = preprocessing.transform()
        self.size, self.scaled = transform.size, transform.scaled
        self.crop_mode, self.interpolation = transform.crop_mode, transform.interpolation.value
        if self.interpolation not in _INTERPOLATIONS:
            raise UserError(f"interpolation={self.interpolation} cannot be exported: bilinear and bicubic can")
        fill = torch.tensor(transform.fill, dtype=torch.float32).view(3, 1, 1)
        self.register_buffer("fill", fill, persistent=False)
        # Of two, from a table, because OpenVINO's own powers are not exact.
        powers = torch.tensor([2.0**bits for bits in range(_PRECISION_BITS + 1)], dtype=torch.float64)
        self.register_buffer("powers", powers, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the preprocessed images."""
        rows, columns = (torch.arange(side, dtype=torch.float64, device=images.device) for side in images.shape[1:3])
        height, width = rows[-1] + 1, columns[-1] + 1
        used_height, used_width = self._limited(height, width)
        tall, wide = self._resized(used_height, used_width)
        across, is_column = self._pass(columns, width, used_width, wide, self.size[1])
        down, is_row = self._pass(rows, height, used_height, tall, self.size[0])
        pixels = images.permute(0, 3, 1, 2).double()
        pixels = _rounded(pixels @ across[0].T, across[1])
        pixels = _rounded(down[0] @ pixels, down[1])
        return torch.where(is_row[:, None] & is_column, pixels.float(), self.fill)

    def _limited(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the image that is used, see `ResizeAndCrop._limit_aspect_ratio`."""
        if self.crop_mode != "center":
            return height, width
        tall, wide = self.scaled
        limit = MAX_ASPECT_RATIO * max(1, -(-tall // wide), -(-wide // tall))
        is_long = torch.maximum(height, width) > limit * torch.minimum(height, width)
        return (
            torch.where(is_long, torch.minimum(height, limit * width), height),
            torch.where(is_long, torch.minimum(width, limit * height), width),
        )

    def _resized(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """(height, width) after the resize, see `ResizeAndCrop.__call__`."""
        tall, wide = self.scaled
        if self.crop_mode == "squash":
            return torch.full_like(height, tall), torch.full_like(width, wide)
        rounding = _floor_ratio if self.crop_mode == "center" and tall == wide else _round_ratio
        by_height = (tall * width >= wide * height) == (self.crop_mode == "center")
        other_width = rounding(tall * width, height).clamp(min=1)
        other_height = rounding(wide * height, width).clamp(min=1)
        full = torch.ones_like(height)
        return torch.where(by_height, tall * full, other_height), torch.where(by_height, other_width, wide * full)

    def _pass(
        self, positions: Tensor, length: Tensor, used: Tensor, resized: Tensor, size: int
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The resize along one axis, from `used` of `length` pixels to `resized`, of which `size` are kept.

        Args:
            positions: (length,) of the pixels.
            length, used, resized: see above.
            size: of the input of the network.

        Returns:
            Weights (size, length), their unit (1,), a power of two, and which outputs (size,) are inside of the image.
        """
        start = torch.round((length - used) / 2)  # half to even, as in Python
        padding = torch.floor((size - resized).clamp(min=0) / 2)
        crop = torch.round((torch.maximum(resized, torch.full_like(resized, size)) - size) / 2)
        outputs = torch.arange(size, dtype=torch.float64, device=positions.device) - padding + crop
        count = resized.long().item()
        torch._check(count > 0)
        every = torch.arange(count, dtype=torch.float64, device=positions.device)
        largest = self._weights(positions - start, used, resized, every).amax(dim=(0, 1))
        bits = (torch.floor(0.5 + largest * self.powers[1:]) < 2**_WEIGHT_BITS).sum()
        unit = self.powers.index_select(0, bits[None])
        weights = self._weights(positions - start, used, resized, outputs)
        scaled = weights * unit
        return (torch.sign(scaled) * torch.floor(scaled.abs() + 0.5), unit), (outputs >= 0) & (outputs < resized)

    def _weights(self, positions: Tensor, used: Tensor, resized: Tensor, outputs: Tensor) -> Tensor:
        """Weights (outputs, positions) float64 of an antialiased resize from `used` to `resized` pixels.

        Distances are ratios of whole numbers, so that float32, in which OpenVINO computes, rounds them only once.
        """
        unit = 2 * torch.maximum(used, resized)  # of the distances: twice a pixel of the smaller of both grids
        distances = ((2 * positions + 1) * resized - (2 * outputs[:, None] + 1) * used).abs()
        weights = self._filter(distances, unit)
        weights = torch.where((positions >= 0) & (positions < used), weights, torch.zeros_like(weights))
        return weights / weights.sum(dim=1, keepdim=True)

    def _filter(self, distances: Tensor, unit: Tensor) -> Tensor:
        """The filter at distances in `unit`, up to a factor: a triangle, or the cubic of Keys (1981) with a = -0.5."""
        if self.interpolation == "bilinear":
            return (unit - distances).clamp(min=0)
        x = distances / unit
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _floor_ratio(a: Tensor, b: Tensor) -> Tensor:
    """The floor of a ratio of whole numbers; the half keeps an inexact division away from the next whole number."""
    return torch.floor((a + 0.5) / b)


def _round_ratio(a: Tensor, b: Tensor) -> Tensor:
    """A ratio, rounded to a whole number."""
    return torch.round(a / b)


def _rounded(sums: Tensor, unit: Tensor) -> Tensor:
    """Fixed-point sums as whole numbers 0..255."""
    return torch.floor(sums / unit + 0.5).clamp(0, 255)
