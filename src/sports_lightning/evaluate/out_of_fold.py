"""Out-of-fold predictions: those of each fold's model on the images that it was not trained on, and all pooled."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sports_lightning.data.dataset_index import Split, split_fingerprint
from sports_lightning.errors import UserError
from sports_lightning.evaluate.clustered_intervals import clustered_variance
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.storage.files import write_bytes

FILE = "out_of_fold.npz"  # in the run folder of a fold


@dataclass(frozen=True)
class PooledFolds:
    """The predictions of all folds.

    Attributes:
        evaluation: of n images, in the order of their paths.
        folds: (n,) int64, the fold that each image was tested in.
    """

    evaluation: Evaluation
    folds: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """(n,) int64, from 0; images of a group are in the same fold."""
        groups = self.evaluation.split.groups
        assert groups is not None
        return groups

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the content and classes of the images, in order."""
        split = self.evaluation.split
        return split_fingerprint((self.evaluation.classes[label] for label in split.labels), split.digests)

    def between_folds(self, per_fold: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        """The mean of each metric over the folds, its standard deviation, and the one that chance would give.

        The latter is for folds that differ in their images only, not in their models.

        Args:
            per_fold: {fold: {metric: value}}, among them "acc" and "loss".
        """
        correct, losses = self.evaluation.is_correct.numpy(), self.evaluation.losses.numpy()
        found = {}
        for name in ("acc", "loss", "f1_macro"):
            values = [metrics[name] for metrics in per_fold.values()]
            found[name] = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}
        for name, column in (("acc", correct), ("loss", losses)):
            parts = [self.folds == fold for fold in per_fold]
            variances = [clustered_variance(column[part].astype(np.float64), self.groups[part]) for part in parts]
            if np.isfinite(variances).all():  # no fold is a single group
                found[name]["sd_by_chance"] = float(np.mean(variances)) ** 0.5
        return found


def write_fold(evaluation: Evaluation, folder: Path) -> None:
    """Write `out_of_fold.npz`, from which `pool` reads the predictions of a fold, into its run folder.

    Its arrays are `paths`, `digests` and `classes`, text; `labels` and `groups` (n,) int64; `logits` (n, classes)
    float32.
    """
    split = evaluation.split
    content = io.BytesIO()
    np.savez(
        content,
        paths=np.array(list(split.paths), dtype=np.str_),
        digests=np.array(list(split.digests), dtype=np.str_),
        classes=np.array(evaluation.classes, dtype=np.str_),
        labels=split.labels,
        groups=np.arange(len(split)) if split.groups is None else split.groups,
        logits=evaluation.logits.float().numpy(),
    )
    write_bytes(folder / FILE, content.getbuffer())


def pool(folders: Mapping[int, Path], root: Path) -> PooledFolds:
    """Read the predictions of all folds.

    Args:
        folders: {fold: run folder}.
        root: the folder that the paths of the images are relative to.

    Raises:
        UserError: the folds are of different datasets or splits.
        ValueError, OSError, KeyError: a file is missing or damaged.
    """
    parts = {}
    for fold, folder in folders.items():
        with np.load(folder / FILE) as arrays:
            parts[fold] = {name: arrays[name] for name in arrays.files}
    one_dataset = len({tuple(part["classes"].tolist()) for part in parts.values()}) == 1
    paths = np.concatenate([part["paths"] for part in parts.values()])
    if not one_dataset or len(np.unique(paths)) < len(paths):
        raise UserError("the folds are not those of one split, since the images have changed: run sweep=kfold again")
    order = np.argsort(paths, kind="stable")

    def joined(name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in parts.values()])[order]

    folds = np.concatenate([np.full(len(part["paths"]), fold) for fold, part in parts.items()])[order]
    # A group has images of one fold only, and its number may be another group's in another fold.
    _, groups = np.unique(np.stack([folds, joined("groups")]), axis=1, return_inverse=True)
    groups = groups.flatten()
    split = Split(paths[order].tolist(), joined("labels"), joined("digests").tolist(), groups)
    classes = next(iter(parts.values()))["classes"].tolist()
    return PooledFolds(Evaluation(root, split, classes, torch.from_numpy(joined("logits"))), folds)
