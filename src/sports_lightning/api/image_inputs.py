"""Images that a user passes to the Python API, as input of a model."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sports_lightning.data.decode import decode
from sports_lightning.data.file_hashes import FileCheck, high_depth, read_file
from sports_lightning.data.formats import open_image
from sports_lightning.data.modes import to_rgb
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.value_range import value_range_for_checkpoint
from sports_lightning.storage.parallel import map_ahead

ImageLike = str | Path | bytes | bytearray | io.BufferedIOBase | io.RawIOBase | Image.Image | np.ndarray | Tensor


class ImageTransform:
    """Turns an image into the input of a model, as the commands do.

    Args:
        preprocessing: the model's.
        of_decoded: what becomes of a decoded image; None: it is resized and cropped.
    """

    def __init__(self, preprocessing: Preprocessing, of_decoded: Callable[[Tensor], Tensor] | None = None) -> None:
        self.preprocessing = preprocessing
        self._of_decoded = of_decoded or preprocessing.transform()

    def __call__(self, image: ImageLike) -> Tensor:
        """Decode an image, apply its EXIF orientation, resize and crop it.

        Args:
            image: path of an image file, its content as bytes or as a binary file, PIL image, uint8 array (h, w, 3) or
                uint8 tensor (3, h, w), sRGB. A PIL image is converted to sRGB by its `info["icc_profile"]`.

        Returns:
            uint8 (3, height, width), the input of `Classifier`, which normalizes it; of an exported file that
            preprocesses images itself, uint8 (h, w, 3).

        Raises:
            UserError: a file that cannot be read as an image.
            TypeError: another type of image.
            ValueError: an array or tensor of another shape or dtype, an image without pixels, or a PIL image of 32 bits
                for a model that has no range of values.
        """
        return self._of_decoded(_to_pixels(image, self.preprocessing))


class Inputs(Dataset[tuple[Tensor]]):
    """Preprocessed images; they are decoded by the threads of torch."""

    def __init__(self, images: Sequence[ImageLike], transform: ImageTransform) -> None:
        self.images, self.transform = images, transform
        self._locks: dict[int, Lock] = {}  # of PIL images, which several threads must not load at once

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor]]:
        return [(image,) for image in map_ahead(self._input, indices, torch.get_num_threads())]

    def in_order(self) -> Iterator[Tensor]:
        """All images in order, without batches."""
        return map_ahead(self._input, range(len(self)), torch.get_num_threads())

    def _input(self, index: int) -> Tensor:
        image = self.images[index]
        if isinstance(image, Image.Image):
            with self._locks.setdefault(id(image), Lock()):
                image.load()
        return self.transform(image)


def as_sequence(images: Iterable[ImageLike]) -> Sequence[ImageLike]:
    """The images as a sequence; a generator is read to its end.

    Raises:
        TypeError: a single image, or no images at all.
    """
    is_array = isinstance(images, np.ndarray | Tensor)
    is_single = isinstance(images, str | Path | bytes | io.IOBase | Image.Image) or getattr(images, "ndim", 4) == 3
    if is_single or isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise TypeError("pass several images, such as [image] or sorted(Path(FOLDER).rglob('*.jpg'))")
    return images if isinstance(images, Sequence) or is_array else list(images)  # type: ignore[return-value]


def check_depth(images: Sequence[ImageLike], preprocessing: Preprocessing) -> None:
    """Check that the model can know the brightness of 16- and 32-bit images, as `predict` does.

    Args:
        images: only paths, bytes and PIL images are checked, in a list or tuple: other sequences may load them slowly.
        preprocessing: the model's.

    Raises:
        UserError: the model was trained on images of 8 bits, and these do not have 8 or 16 bits.
    """
    listed = images if isinstance(images, list | tuple) else []
    checks = [check for check in map_ahead(_high_depth, listed, torch.get_num_threads()) if check]
    # Of a model without a range, an answer does not depend on the other images.
    for group in [checks] if preprocessing.value_range else [[check] for check in checks]:
        if group:
            value_range_for_checkpoint(preprocessing.value_range, "auto", group, "the input")


def _high_depth(image: ImageLike) -> FileCheck | None:
    try:
        if isinstance(image, Image.Image):
            found = high_depth(image)
        elif isinstance(image, str | Path | bytes):
            with open_image(image if isinstance(image, bytes) else read_file(Path(image).expanduser())) as opened:
                found = high_depth(opened)
        else:
            return None
    except Exception:  # reported when the image is decoded
        return None
    return FileCheck("", "", 0, *found) if found else None


def _to_pixels(image: ImageLike, preprocessing: Preprocessing) -> Tensor:
    """uint8 (3, h, w)."""
    pixels = _any_pixels(image, preprocessing)
    if not pixels.numel():
        raise ValueError(f"an image of {pixels.shape[1]}×{pixels.shape[2]} (height × width) has no pixels")
    return pixels


def _read_again(file: Any) -> bytes:
    """The rest of a binary file, which can be read once more afterwards."""
    position = file.tell() if file.seekable() else None
    content: bytes = file.read()
    if position is not None:
        file.seek(position)
    return content


def _any_pixels(image: ImageLike, preprocessing: Preprocessing) -> Tensor:
    """uint8 (3, h, w); height or width may be 0."""
    if isinstance(image, str | Path):
        return decode(Path(image).expanduser(), preprocessing.least_side, preprocessing.value_range)
    if isinstance(image, bytes | bytearray | io.BufferedIOBase | io.RawIOBase):
        content = _read_again(image) if isinstance(image, io.IOBase) else bytes(image)
        return decode(content, preprocessing.least_side, preprocessing.value_range)
    if isinstance(image, Image.Image):
        image = np.array(to_rgb(image, preprocessing.value_range))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an array must be uint8 (h, w, 3), not {image.dtype} {image.shape}")
        return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)  # torch warns of read-only
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"a tensor must be uint8 (3, h, w), not {image.dtype} {tuple(image.shape)}")
        return image.cpu()
    raise TypeError(
        f"an image must be a path, bytes, a binary file, a PIL image, an array or a tensor, not {type(image).__name__}"
    )
