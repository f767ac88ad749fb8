"""The images of a training run, in the splits that its folder records."""

from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.runs.process import is_rank_zero
from sports_lightning.split.dataset import open_dataset
from sports_lightning.split.split_file import holds_split, with_split_of, write_split_file
from sports_lightning.train.resolved_config import training_splits


def open_training_images(cfg: DictConfig, folder: Path) -> DatasetIndex:
    """Open the images that a run trains and tests on, and write `split.csv` if they do not have all splits themselves.

    A resumed or repeated run, whose folder holds `split.csv`, keeps the split that it was started with.

    Args:
        cfg: `conf/train.yaml`.
        folder: the run folder.

    Raises:
        UserError: see `open_dataset`.
    """
    has_split = holds_split(folder)
    data = with_split_of(folder, cfg.data) if has_split else cfg.data
    index = open_dataset(data, training_splits(cfg), may_cut=True)
    if is_rank_zero() and not has_split:
        write_split_file(index, cfg.data, folder)
    return index
