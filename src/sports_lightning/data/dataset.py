"""Images as (uint8 tensor, target) pairs; every random draw is a function of (seed, epoch, index)."""

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from sports_lightning.data.decoded_cache import DecodedImages
from sports_lightning.data.sampler import SampleKey
from sports_lightning.storage.parallel import map_ahead

Transform = Callable[[Tensor], Tensor]
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def seed_draws(*key: int) -> None:
    """Seed the global generators of torch, numpy and Python with `key`."""
    a, b = np.random.SeedSequence(key).generate_state(2).tolist()
    torch.default_generator.manual_seed(a)  # torch.manual_seed would queue a call for every CUDA device
    np.random.seed(b)
    random.seed(b)


def fixed_augmentation(epoch: int, repeat: int, count: int) -> int:
    """Which of an image's `count` fixed augmentations its (repeat + 1)th occurrence in an epoch uses."""
    return (epoch + repeat) % count


class EvaluationImages(Dataset[tuple[Tensor, int]]):
    """Preprocessed images with their labels, in order, without randomness.

    Item i is (uint8 (3, height, width), label).
    """

    def __init__(self, images: DecodedImages, labels: np.ndarray, transform: Transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """A batch, as torch's DataLoader requests it."""
        images = map_ahead(self._image, indices, torch.get_num_threads())
        return [(image, int(self.labels[i])) for image, i in zip(images, indices, strict=True)]

    def _image(self, index: int) -> Tensor:
        return self.transform(self.images(index))


class TrainingImages(Dataset[tuple[Tensor, int | Tensor]]):
    """Augmented images, addressed by the `SampleKey`s that `EpochSampler` yields.

    An item is (uint8 (3, height, width), label) or, with `mix`, a float32 (classes,) target.

    Args:
        images: the decoded images, by index.
        labels: (n,) int64.
        transform: returns the augmentation of an epoch, from uint8 (3, h, w) to uint8 (3, height, width), which may
            draw from the global generators.
        seed: the run's seed.
        mix: mixup or CutMix of two images (see `augment.PairMix`), or None. The partner is drawn per image from the
            whole dataset, not from the batch, so that the result does not depend on how batches are split over devices.
        fixed_augmentations: number of fixed augmentations per image, used in turn; None draws new ones every epoch.
        numbers: (n,) int64, what stands for the index of an image in its random draws; None: the index.
        weights: (n,) float64, the probability of each image as a partner; None: all alike.
    """

    def __init__(
        self,
        images: DecodedImages,
        labels: np.ndarray,
        transform: Callable[[int], Transform],
        seed: int,
        mix: Mix | None = None,
        fixed_augmentations: int | None = None,
        numbers: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.images, self.labels, self.transform = images, labels, transform
        self.seed, self.mix, self.fixed_augmentations, self.numbers = seed, mix, fixed_augmentations, numbers
        self.cumulative_weights = None if weights is None else np.cumsum(weights)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int | Tensor]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[tuple[Tensor, int | Tensor]]:
        """A batch, as torch's DataLoader requests it. The state of the global generators is restored afterwards."""
        # Not in a worker process: it draws nothing else, and restoring the state takes as long as a transform.
        with nullcontext() if get_worker_info() else isolate_rng(include_cuda=False):
            images = self.images.many([index for _, index, _ in keys])
            if self.mix is None:
                return [
                    (self._augment(image, *key), int(self.labels[key[1]]))
                    for image, key in zip(images, keys, strict=True)
                ]
            return self._mixed(images, keys, self.mix)

    def _augment(self, image: Tensor, epoch: int, index: int, repeat: int) -> Tensor:
        """Seed the global generators for this sample and augment its image."""
        if self.fixed_augmentations:
            epoch, repeat = fixed_augmentation(epoch, repeat, self.fixed_augmentations), 0
        seed_draws(self.seed, epoch, index if self.numbers is None else int(self.numbers[index]), repeat)
        return self.transform(epoch)(image)

    def _partner(self) -> int:
        """Draw the index of an image to mix with."""
        if self.cumulative_weights is None:
            return int(torch.randint(len(self), ()))
        found = np.searchsorted(self.cumulative_weights, torch.rand((), dtype=torch.float64).item(), side="right")
        return min(int(found), len(self) - 1)

    def _mixed(
        self, images: Iterable[Tensor], keys: Sequence[SampleKey], mix: Mix
    ) -> list[tuple[Tensor, int | Tensor]]:
        """Mix each image with a partner. All partners are drawn first, so that they are decoded in parallel."""
        augmented, partners, states = [], [], []
        for image, key in zip(images, keys, strict=True):
            augmented.append(self._augment(image, *key))
            partners.append(self._partner())
            states.append((torch.get_rng_state(), np.random.get_state(), random.getstate()))
        items: list[tuple[Tensor, int | Tensor]] = []
        partner_images = self.images.many(partners)
        for image, key, partner, state, other in zip(augmented, keys, partners, states, partner_images, strict=True):
            torch.set_rng_state(state[0])
            np.random.set_state(state[1])
            random.setstate(state[2])
            epoch = fixed_augmentation(key[0], key[2], self.fixed_augmentations) if self.fixed_augmentations else key[0]
            labels = torch.tensor([int(self.labels[key[1]]), int(self.labels[partner])])
            items.append(mix(torch.stack([image, self.transform(epoch)(other)]), labels))
        return items
