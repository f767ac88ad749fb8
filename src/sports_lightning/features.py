"""A frozen backbone runs once: its features are kept on disk, and the head trains on them.

They are stored under a fingerprint of everything that they depend on: the backbone's weights and architecture, the
preprocessing, the augmentation's draws, the pictures' content and the precision. A change of any of these makes new
ones; another learning rate, loss or number of epochs does not.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from sports_lightning.classifier import Classifier
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.dataset import view_of
from sports_lightning.data.index import Index
from sports_lightning.data.store import cache_dir_of, fingerprint, library_versions, stored
from sports_lightning.inference import evaluation_pictures, run_over

log = logging.getLogger(__name__)


class _View(Dataset[tuple[Tensor, Tensor]]):
    """A training set as it is in one of its views."""

    def __init__(self, pictures: Dataset[Any], size: int, view: int) -> None:
        self.pictures, self.size, self.view = pictures, size, view

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pictures[self.view, index, 0]


class TrainingFeatures(Dataset[tuple[Tensor, int]]):
    """Features in place of `TrainingPictures`, under the same addresses (epoch, index, repeat).

    Args:
        views: (n, features) float32 for each view, which take turns.
        labels: of each.
    """

    def __init__(self, views: list[Tensor], labels: np.ndarray) -> None:
        self.views, self.labels = views, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, index, repeat = key
        return self.views[view_of(epoch, repeat, len(self.views))][index], int(self.labels[index])


def count_views(augment: DictConfig) -> int | None:
    """How many different versions of a picture a training sees; None where every epoch has new ones."""
    if augment.mixup or augment.cutmix or augment.sides:
        return None
    kinds = {transform._target_ for transform in augment.transforms.values() if transform}
    return 1 if kinds <= {"sports_lightning.preprocessing.Fit"} else augment.views


def use_features(classifier: Classifier, data: SportsDataModule, cfg: DictConfig) -> bool:
    """Put the frozen backbone's features in the place of the pictures of `data`, if `cfg` (train) allows it.

    It does where the head alone learns, from a limited number of views of each picture, and where timm's `forward_head`
    shows that the model is a backbone followed by its classifier. The head's logits are those of the whole model.
    """
    views = count_views(cfg.augment)
    if cfg.finetune.mode != "head" or views is None or not _head_is_separate(classifier):
        return False
    inference: Any = OmegaConf.merge(cfg.inference, {"precision": cfg.trainer.precision, "mirror": False})
    store = _Store(classifier, inference, cache_dir_of(cfg.data))
    train, val = data.index.splits["train"], data.index.splits["val"]
    resolved: Any = OmegaConf.to_container(cfg.augment, resolve=True)
    plain = {key: value for key, value in resolved.items() if key not in ("views", "preprocessing")}
    of_view = []
    for view in range(views):
        draws = None if views == 1 and cfg.augment.views is None else [cfg.seed, view]
        facts = [plain, draws]
        of_view.append(store.features(_View(data.train_set, len(train), view), train.digests, facts))
    data.train_set = TrainingFeatures(of_view, train.labels)
    data.val_set = TensorDataset(store.features(data.val_set, val.digests), torch.tensor(val.labels))
    return True


def logits_from_features(
    classifier: Classifier, index: Index, split: str, inference: DictConfig, cache_dir: Path
) -> Tensor:
    """As `compute_logits`, (n, classes) float32, but the backbone's part is stored, or taken from what is stored."""
    dataset = evaluation_pictures(classifier, index.root, index.splits[split])
    store = _Store(classifier, inference, cache_dir)
    with torch.inference_mode():
        return classifier.eval().head(store.features(dataset, index.splits[split].digests))


class _Store:
    """Features of one backbone, run in one way.

    Args:
        classifier: whose backbone it is.
        inference: how it is run.
        cache_dir: `data.cache_dir`.
    """

    def __init__(self, classifier: Classifier, inference: DictConfig, cache_dir: Path) -> None:
        self.classifier, self.inference, self.cache_dir = classifier, inference, cache_dir
        spec = classifier.spec
        weights = hashlib.blake2b(digest_size=16)
        last: torch.nn.Module = classifier.net.get_classifier()  # type: ignore[operator]
        head = {id(tensor) for tensor in last.state_dict(keep_vars=True).values()}
        for name, tensor in classifier.net.state_dict(keep_vars=True).items():
            if id(tensor) not in head:
                weights.update(name.encode())
                weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        backbone = [spec.architecture, spec.arguments, spec.preprocessing, weights.hexdigest()]
        self.facts = ["features", library_versions(), *backbone]

    def features(self, dataset: Dataset[Any], digests: Sequence[str], augment: Any = None) -> Tensor:
        """(n, features) float32 of `dataset`, whose pictures have these digests; memory-mapped."""
        assert len(digests) == len(dataset), "the pictures have not been examined"  # type: ignore[arg-type]
        way = [self.inference[key] for key in ("precision", "accelerator", "compile", "mirror")]
        key = fingerprint([*self.facts, *way, augment, list(digests)])

        def build(folder: Path) -> None:
            log.info("running the frozen backbone once over %s pictures", f"{len(digests):,}")
            features = run_over(Classifier.features, self.classifier, dataset, self.inference)
            np.save(folder / "features.npy", features.numpy())

        return torch.from_numpy(np.load(stored(self.cache_dir, "features", key, build) / "features.npy", mmap_mode="c"))


def _head_is_separate(classifier: Classifier) -> bool:
    """Whether the classifier behind timm's `forward_head(pre_logits=True)` gives the model's own logits."""
    if "drop_rate" in classifier.spec.arguments and not hasattr(classifier.net, "drop_rate"):
        return False  # the model drops out within its head, at a place of its own
    height, width = classifier.spec.preprocessing["size"]
    probe = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    was_training = classifier.training
    classifier.eval()
    try:
        with torch.inference_mode():
            return torch.allclose(classifier.head(classifier.features(probe)), classifier(probe), rtol=1e-4, atol=1e-5)
    except (AttributeError, TypeError, RuntimeError):
        return False
    finally:
        classifier.train(was_training)
