"""The training images whose features are nearest to those of an image, where a run has cached them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.inference.feature_cache import FeatureCache
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.frozen_pass import FrozenPass
from sports_lightning.models.classifier import Classifier
from sports_lightning.reports.html import thumbnail_uri
from sports_lightning.runs.provenance import read_images, read_provenance
from sports_lightning.runs.resume import load_config
from sports_lightning.runs.run_of_checkpoint import find_run_folder
from sports_lightning.serve.answers import Neighbour, Neighbours
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.files import DAMAGED

_SHOWN = 6
_AT_ONCE = 2**14  # rows whose norms are computed at once


@dataclass(frozen=True)
class NoNeighbours:
    """There are no features to search in.

    Attributes:
        reason: why.
    """

    reason: str


class TrainingNeighbours:
    """Finds the most similar training images by the cosine of their features.

    Args:
        classifier: on the CPU.
        root: the folder that the paths are relative to.
        labels: {path: class} of the n training images.
        features: (n, features) float32, memory-mapped.
    """

    def __init__(self, classifier: Classifier, root: Path, labels: dict[str, str], features: Tensor) -> None:
        self.classifier, self.root, self.features = classifier, root, features
        self._images = list(labels.items())
        norms = [rows.norm(dim=1) for rows in features.split(_AT_ONCE)]
        self._norms = torch.cat(norms).clamp(min=1e-12)

    def find(self, images: Tensor) -> Neighbours:
        """The most similar training images of the first image of a batch, uint8 (1, 3, height, width)."""
        with torch.inference_mode():
            own = self.classifier.features(images)[0].float()
            cosines = self.features @ own / self._norms / own.norm().clamp(min=1e-12)
        best = cosines.topk(min(_SHOWN, len(cosines)))
        return Neighbours(
            neighbours=[
                Neighbour(
                    path=path,
                    label=label,
                    similarity=cosine,
                    thumbnail=thumbnail_uri(self.root / path, self.classifier.preprocessing.value_range),
                )
                for cosine, row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                for path, label in [self._images[row]]
            ]
        )


def find_training_images(classifier: Classifier, ckpt_path: str) -> TrainingNeighbours | NoNeighbours:
    """Open the cached features of the images that a checkpoint was trained on.

    Args:
        classifier: of the checkpoint.
        ckpt_path: in the run folder of its training.
    """
    folder = find_run_folder(ckpt_path)
    if folder is None:
        return NoNeighbours("the checkpoint is not in the folder of its run")
    try:
        cfg: Any = OmegaConf.create(load_config(folder))
        if cfg.finetune.mode != "head":
            return NoNeighbours("features of training images are cached by runs with finetune=head only")
        images = {row["path"]: row for row in read_images(folder) if row["split"] == "train"}
        provenance = read_provenance(folder)
        digests = [row["digest"] for row in images.values()]
        features = _cached_features(classifier, cfg, _frozen_pass(provenance), digests)
        root = Path(provenance["data"]["root"])
    except (UserError, *DAMAGED) as error:
        return NoNeighbours(f"the run folder can't be read: {' '.join(str(error).split())}")
    if features is None:
        return NoNeighbours("the features of the training images are not in the cache of this machine")
    labels = {path: row.get("label", "") for path, row in images.items()}
    return TrainingNeighbours(classifier, root, labels, features)


def _frozen_pass(provenance: dict[str, Any]) -> FrozenPass:
    """How a run has computed its features; earlier versions had no engine, and the precision in another place."""
    if found := provenance.get("frozen_pass"):
        return FrozenPass(found["engine"], found["precision"])
    precision = provenance["precision"]
    return FrozenPass(precision=precision.get("frozen_precision") or precision["precision"])


def _cached_features(classifier: Classifier, cfg: DictConfig, how: FrozenPass, digests: Sequence[str]) -> Tensor | None:
    """The features that `use_cached_features` has stored, of images without augmentation."""
    inference, cache_dir = how.settings(cfg.inference), resolve_cache_dir(cfg.data)
    return FeatureCache(FrozenBackbone(), classifier, inference, cache_dir, how.engine).find(digests)
