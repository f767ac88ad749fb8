"""Small image folders as the package lists and scans them."""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from sports_lightning import CONF_DIR
from sports_lightning.audit.scan import DatasetScan, scan_dataset
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.image_folder import list_image_folder
from sports_lightning.data.source import list_dataset


class Sequenced(list[Image.Image]):
    """A source of images of one class."""

    classes = ("a",)

    @property
    def labels(self) -> list[int]:
        return [0] * len(self)

    image = list.__getitem__


def data_settings(root: Path, **changes: Any) -> DictConfig:
    """`conf/data/folder.yaml` for `root`, with a hidden cache folder in it."""
    settings = OmegaConf.load(Path(CONF_DIR) / "data" / "folder.yaml")
    return OmegaConf.merge(settings, {"root": str(root), "cache_dir": str(root / ".cache")}, changes)


def list_index(root: Path, splits: list[str]) -> DatasetIndex:
    """The index of a folder whose images are not read."""
    table = list_image_folder(root)
    classes = table.check_classes(splits)
    labels = np.array([classes.index(name) for name in table.names])[table.labels]
    rows = {split: table.rows_of([split]) for split in splits}
    opened = {split: Split((table.paths[i] for i in found), labels[found]) for split, found in rows.items()}
    return DatasetIndex(root, classes, opened)


def scan(root: Path, cache_dir: Path, value_range: Any = "auto") -> DatasetScan:
    return scan_dataset(list_dataset(data_settings(root)), cache_dir, value_range)
