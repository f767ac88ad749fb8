"""A split whose labels are known, opened for a checkpoint, with what is known about its images."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.audit.known_suspects import find_suspects
from sports_lightning.audit.scan import find_leaks, open_and_scan, why_leaks_are_unknown
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.data.hub import HUGGING_FACE
from sports_lightning.data.image_folder import check_outside_classes
from sports_lightning.data.value_range import value_range_for_checkpoint
from sports_lightning.inference.exported import AnyClassifier
from sports_lightning.split.split_file import data_of_checkpoint


@dataclass(frozen=True)
class LabelledSplit:
    """A split of the dataset of a checkpoint.

    Attributes:
        index: with the split.
        leaks: paths of its images that an earlier split has too; None if that is not known.
        suspects: paths of its images whose labels may be wrong; None if that is not known.
    """

    index: DatasetIndex
    leaks: Collection[str] | None
    suspects: Collection[str] | None


def open_split(
    classifier: AnyClassifier, ckpt_path: str | Path, data: DictConfig, split: str, folder: Path
) -> LabelledSplit:
    """Open a split of the dataset that `data` names, or else of the one that a checkpoint was trained on.

    The value range of the images is set in the classifier. A line says why leaks are unknown, if they are.

    Args:
        classifier: that of the checkpoint.
        ckpt_path: the checkpoint.
        data: `conf/data/*.yaml`.
        split: "train", "val" or "test".
        folder: the run folder, which must not be within the images.

    Raises:
        UserError: no such dataset, split or `data.suspects`, or other classes.
    """
    data = data_of_checkpoint(data, ckpt_path, classifier.spec.data_root)
    if data.root and data.source != HUGGING_FACE:
        check_outside_classes(folder, Path(str(data.root)).expanduser(), "hydra.run.dir")
    choose = partial(value_range_for_checkpoint, classifier.preprocessing.value_range)
    index, scan = open_and_scan(data, [split], classifier.spec.classes, choose)
    classifier.set_value_range(index.value_range)
    suspects = find_suspects(data.suspects, index, scan)
    leaks = find_leaks(scan, split, classifier.spec.trained_on)
    if leaks is None and scan:
        print(f"leaks: unknown, since {why_leaks_are_unknown(scan)}")
    return LabelledSplit(index, leaks, suspects.get(split))
