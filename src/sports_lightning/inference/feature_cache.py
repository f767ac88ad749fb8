"""Feature cache: run the frozen part of a model once, store its outputs on disk, and train the other layers on them.

The outputs are the features of a backbone or the maps of its first stages (see `frozen_part`). They are stored under a
fingerprint of everything that they depend on: weights and architecture of the frozen part, preprocessing, augmentation
and its seed, content of the images, type of device, precision and batch size. Another learning rate, loss or number of
epochs uses the same features again.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset

from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.formats import pixel_limit
from sports_lightning.inference.frozen_part import FrozenPart, FrozenStages
from sports_lightning.inference.frozen_pass import FrozenPass
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.predictor import (
    Forward,
    compute_logits,
    evaluation_images,
    output_settings,
    run_batches,
)
from sports_lightning.models.classifier import Classifier
from sports_lightning.storage.code_digest import foreign_code
from sports_lightning.storage.disk_cache import cache_key, cached_folder, find_cached_folder, installed_versions

log = logging.getLogger(__name__)

_KIND = "features"  # of cached folder


class SplitFeatures(Dataset[tuple[Tensor, ...]]):
    """Features of the images of a split: item i is (features,), or (features, label) if labels are given.

    Args:
        features: (m, …) float32, memory-mapped.
        rows: (n,) int64, which of them are those of the split; None: all, in order.
        labels: (n,) int64.
    """

    def __init__(self, features: Tensor, rows: np.ndarray | None, labels: np.ndarray | None = None) -> None:
        self.features, self.rows, self.labels = features, rows, labels

    def __len__(self) -> int:
        return len(self.features) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        features = self.features[index if self.rows is None else int(self.rows[index])]
        return (features,) if self.labels is None else (features, torch.tensor(self.labels[index]))

    def tensor(self) -> Tensor:
        """(n, …) float32; in memory, where they are a part of the features."""
        return self.features if self.rows is None else self.features[torch.from_numpy(self.rows)]


def logits_from_features(
    part: FrozenPart, classifier: Classifier, index: DatasetIndex, split: str, inference: DictConfig, cache_dir: Path
) -> Tensor:
    """Compute logits (n, classes) float32 as `compute_logits` does, with the outputs of the frozen part cached."""
    # The logits of averaged maps are not averaged logits, and a compiled whole rounds differently from compiled parts.
    if inference.compile or (inference.flip_tta and isinstance(part, FrozenStages)):
        return compute_logits(classifier, index.root, index.splits[split], inference)
    store = FeatureCache(part, classifier, inference, cache_dir)
    images = partial(evaluation_images, classifier, index.root)
    features = store.split_features(index.splits[split], index.pool, images)
    settings: Any = OmegaConf.merge(inference, {"flip_tta": False, "num_workers": 0})
    logits: list[Tensor] = []
    run_batches(part.rest, classifier, features, settings, logits.append)
    return torch.cat(logits)


class FeatureCache:
    """The outputs of the frozen part of a classifier, stored on disk.

    Args:
        part: the frozen part.
        classifier: the classifier that `part` belongs to.
        inference: `conf/inference/*.yaml`.
        cache_dir: `data.cache_dir`.
        engine: "torch" or "openvino", which runs the part.
    """

    def __init__(
        self, part: FrozenPart, classifier: Classifier, inference: DictConfig, cache_dir: Path, engine: str = "torch"
    ) -> None:
        if isinstance(
            part, FrozenStages
        ):  # torch.compile does not support the exception that ends their forward pass early
            inference = OmegaConf.merge(inference, {"compile": False})  # type: ignore[assignment]
        self.part, self.classifier, self.inference, self.cache_dir = part, classifier, inference, cache_dir
        self.engine = engine
        self._functions: dict[int, Forward] = {}  # by batch size
        weights = hashlib.blake2b(digest_size=16)
        for name, tensor in part.weights(classifier).items():
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        spec = classifier.spec
        frozen = [asdict(part), spec.architecture, spec.arguments, spec.preprocessing, weights.hexdigest()]
        layers = {type(layer).__module__ for layer in classifier.net.modules()}
        self.key_parts = [*frozen, foreign_code(layers)]

    def split_features(
        self, split: Split, pool: Split | None, images: Callable[[Split], Dataset[Any]], augmentation_key: Any = None
    ) -> SplitFeatures:
        """The outputs for the images of a split; those of a fold are taken from the outputs for all images of its pool.

        Args:
            split: the images.
            pool: `DatasetIndex.pool`.
            images: makes the dataset of preprocessed images of a split or pool.
            augmentation_key: the augmentation of the dataset, as plain data.
        """
        whole = pool or split
        features = self.features(images(whole), whole.digests, augmentation_key)
        return SplitFeatures(features, split.rows if pool else None)

    def features(self, dataset: Dataset[Any], digests: Sequence[str], augmentation_key: Any = None) -> Tensor:
        """Return the outputs (n, …) float32 for a dataset, memory-mapped; out of memory halves `inference.batch_size`.

        Args:
            dataset: preprocessed images.
            digests: of the content of the images, in order.
            augmentation_key: the augmentation of `dataset`, as plain data.
        """
        assert len(digests) == len(dataset), "the images have no digests"  # type: ignore[arg-type]
        features, self.inference = halve_batch_on_out_of_memory(
            lambda inference: self._features(dataset, digests, augmentation_key, inference), self.inference
        )
        return features

    def _features(
        self, dataset: Dataset[Any], digests: Sequence[str], augmentation_key: Any, inference: DictConfig
    ) -> Tensor:
        key = self._key(digests, augmentation_key, inference)

        def build(folder: Path) -> None:
            log.info("running the frozen %s once over %s images", self.part.name, f"{len(digests):,}")
            with (folder / "features.npy").open("wb") as file:

                def write(outputs: Tensor) -> None:
                    if not file.tell():
                        shape = (len(digests), *outputs.shape[1:])
                        layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, layout)
                    file.write(outputs.contiguous().numpy().data)

                run_batches(self._function(inference.batch_size), self.classifier, dataset, inference, write)

        return _load(cached_folder(self.cache_dir, _KIND, key, build))

    def _function(self, batch_size: int) -> Forward:
        """What runs the part, started once for all splits."""
        if batch_size not in self._functions:
            how = FrozenPass(self.engine, self.inference.precision)
            self._functions[batch_size] = how.function(self.part)
        return self._functions[batch_size]

    def find(self, digests: Sequence[str]) -> Tensor | None:
        """The stored outputs (n, …) float32 for images without augmentation, memory-mapped; None if there are none.

        Args:
            digests: of the content of the images, in order.
        """
        folder = find_cached_folder(self.cache_dir, _KIND, self._key(digests, None, self.inference))
        return _load(folder) if folder else None

    def _key(self, digests: Sequence[str], augmentation_key: Any, inference: DictConfig) -> str:
        engine = [] if self.engine == "torch" else [self.engine, installed_versions([self.engine])]
        settings = [*output_settings(inference), *engine, pixel_limit()]
        return cache_key(__name__, *self.key_parts, *settings, augmentation_key, list(digests))


def _load(folder: Path) -> Tensor:
    return torch.from_numpy(np.load(folder / "features.npy", mmap_mode="c"))
