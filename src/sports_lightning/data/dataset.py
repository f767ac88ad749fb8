"""Images as (uint8 tensor, target) pairs; every random draw is a function of (seed, epoch, index)."""

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from sports_lightning.data.decoded_cache import DecodedImages
from sports_lightning.storage.parallel import map_ahead

Transform = Callable[[Tensor], Tensor]


def seed_draws(*key: int) -> None:
    """Seed torch's, numpy's and Python's global draws from `key`."""
    a, b = np.random.SeedSequence(key).generate_state(2).tolist()
    torch.default_generator.manual_seed(a)  # torch.manual_seed would queue a call for every CUDA device
    np.random.seed(b)
    random.seed(b)


def fixed_augmentation(epoch: int, repeat: int, views: int) -> int:
    """Which of an image's `views` an epoch sees, at the image's (repeat + 1)th turn in it."""
    return (epoch + repeat) % views


class EvaluationImages(Dataset[tuple[Tensor, int]]):
    """Preprocessed images with their labels, in order, nothing random.

    Item i is (uint8 (3, height, width), label).
    """

    def __init__(self, images: DecodedImages, labels: np.ndarray, transform: Transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """A batch, as torch's loaders ask for it."""
        images = map_ahead(self._image, indices, torch.get_num_threads())
        return [(image, int(self.labels[i])) for image, i in zip(images, indices, strict=True)]

    def _image(self, index: int) -> Tensor:
        return self.transform(self.images(index))


class TrainingImages(Dataset[tuple[Tensor, int | Tensor]]):
    """Augmented images, addressed by (epoch, index, repeat) as `EpochSampler` yields them.

    Args:
        images: position to image.
        labels: of each.
        transform: of an epoch: its augmentation, uint8 (3, h, w) to uint8 (3, height, width), which may draw from
            torch's global generator.
        seed: of the run.
        mix: mixup or cutmix of two images (see augment.PairMix), or None. The partner is drawn for each image
            alone, not within its batch, so that the result does not depend on how batches are cut over devices.
        views: how many draws of the augmentation each image has, which take turns; None: new ones every epoch.

    An item is (uint8 (3, height, width), label) or, with `mix`, a float32 (classes,) target.
    """

    def __init__(
        self,
        images: DecodedImages,
        labels: np.ndarray,
        transform: Callable[[int], Transform],
        seed: int,
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        views: int | None = None,
    ) -> None:
        self.images, self.labels, self.transform = images, labels, transform
        self.seed, self.mix, self.views = seed, mix, views

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int | Tensor]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int, int]]) -> list[tuple[Tensor, int | Tensor]]:
        """A batch, as torch's loaders ask for it. The global draws are as before, afterwards."""
        # But for a loading process: it draws nothing else, and putting them back takes as long as a transform.
        with nullcontext() if get_worker_info() else isolate_rng(include_cuda=False):
            images = self.images.many([index for _, index, _ in keys])
            return [self._item(image, *key) for image, key in zip(images, keys, strict=True)]

    def _item(self, image: Tensor, epoch: int, index: int, repeat: int) -> tuple[Tensor, int | Tensor]:
        if self.views:
            epoch, repeat = fixed_augmentation(epoch, repeat, self.views), 0
        transform = self.transform(epoch)
        seed_draws(self.seed, epoch, index, repeat)
        image, label = transform(image), int(self.labels[index])
        if self.mix is None:
            return image, label
        partner = int(torch.randint(len(self), ()))
        images = torch.stack([image, transform(self.images(partner))])
        return self.mix(images, torch.tensor([label, self.labels[partner]]))
