"""`split.csv`: the split of every image as a manifest, for later runs and other programs."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from sports_lightning.data.class_names import normalize
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.data.folder_layout import SPLITS
from sports_lightning.data.hub import HUGGING_FACE
from sports_lightning.data.hub_table import list_hub_dataset
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.data.manifest import COLUMNS, label_cell, read_splits
from sports_lightning.errors import UserError
from sports_lightning.runs.layout import SPLIT_FILE, SPLIT_INFO
from sports_lightning.runs.resume import has_checkpoint
from sports_lightning.storage.disk_cache import fingerprint
from sports_lightning.storage.files import DAMAGED, checkpoint_file, write_bytes, write_csv, write_json

log = logging.getLogger(__name__)


def write_split_file(index: DatasetIndex, data: DictConfig, folder: Path) -> None:
    """Write `split.json` with a fingerprint, and `split.csv` with the columns image, label, split and group.

    For a dataset that has all splits itself, nothing is written. Files of another run are replaced or removed.

    Args:
        index: of an opened dataset.
        data: `conf/data/*.yaml`.
        folder: the run folder.

    Raises:
        UserError: the folder holds a `split.csv` of the user.
    """
    table = index.table
    is_of_run = (folder / SPLIT_INFO).exists()
    if table is None or not index.is_recorded:
        for name in (SPLIT_FILE, SPLIT_INFO) if is_of_run else ():
            (folder / name).unlink(missing_ok=True)
        return
    if (folder / SPLIT_FILE).exists() and not is_of_run:
        raise UserError(f"{folder} holds a {SPLIT_FILE} that no run has written: move it, or set another hydra.run.dir")
    groups = range(len(table)) if table.groups is None else table.groups.tolist()
    rows = [
        [path, label_cell(table.names[label]), SPLITS[split], group]
        for path, label, split, group in zip(
            table.paths, table.labels.tolist(), table.splits.tolist(), groups, strict=True
        )
    ]
    content = {
        "root": str(index.root.absolute()),
        "fingerprint": fingerprint(rows),
        "images": {split: int((table.splits == code).sum()) for code, split in enumerate(SPLITS)},
        "settings": {**data.split, "folds": data.folds, "fold": data.fold},
        "origin": table.origin,
    }
    write_json(folder / SPLIT_INFO, content)
    write_csv(folder / SPLIT_FILE, COLUMNS, rows)


def holds_split(folder: Path) -> bool:
    """Whether a run folder holds the split of this run.

    Without a checkpoint it may be that of another run, of other images, that was killed at its start. Every process
    then cuts the same split itself.
    """
    return (folder / SPLIT_FILE).exists() and has_checkpoint(folder)


def data_of_checkpoint(data: DictConfig, ckpt_path: str | Path, data_root: str) -> DictConfig:
    """The data settings with which a checkpoint or an exported file is evaluated.

    Args:
        data: `conf/data/*.yaml`; if it names a dataset, it is returned as it is.
        ckpt_path: the checkpoint, its run folder, or an exported file.
        data_root: the folder of the training images.

    Raises:
        UserError: no such file.
    """
    if data.root or data.manifest or data.source == HUGGING_FACE:
        return data
    data.root = data_root
    return with_split_of(_split_folder(checkpoint_file(ckpt_path)), data)


def _split_folder(checkpoint: Path) -> Path:
    """The folder with the split that a checkpoint was trained on: its own, or the run folder above it."""
    folders = checkpoint.absolute().parents[:2]
    return next((folder for folder in folders if (folder / SPLIT_FILE).exists()), folders[0])


def copy_split_file(checkpoint: Path, target: Path) -> None:
    """Copy `split.csv` and `split.json` of a checkpoint's run, if it has them, into another folder."""
    source = _split_folder(checkpoint)
    for name in (SPLIT_FILE, SPLIT_INFO):
        if (source / name).exists():
            write_bytes(target / name, (source / name).read_bytes())


def with_split_of(folder: Path, data: DictConfig) -> DictConfig:
    """The data settings of a run, with the split in its folder as the manifest, if there is one.

    The images of a Hugging Face dataset are in the cache where they were, or loaded again in the revision of the run.

    Args:
        folder: the run folder.
        data: `conf/data/*.yaml`, with the root of the run's images unless they are of a Hugging Face dataset.

    Raises:
        UserError: `split.json` of a Hugging Face dataset is missing or damaged.
    """
    if not (folder / SPLIT_FILE).exists():
        return data
    recorded = {
        "manifest": str(folder / SPLIT_FILE),
        "manifest_columns": {name: name for name in COLUMNS},
        "fold": None,  # the images are in folds already
    }
    if data.manifest and not data.root:
        recorded["root"] = str(Path(str(data.manifest)).expanduser().parent)
    recorded |= _origin(folder / SPLIT_INFO, data)
    merged = OmegaConf.merge(data, recorded)
    assert isinstance(merged, DictConfig)
    return merged


def _origin(file: Path, data: DictConfig) -> dict[str, Any]:
    """The root and the origin of the images of a Hugging Face dataset; {} for other images."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        origin: dict[str, Any] = content.get("origin", {})
        root = Path(str(data.root or content["root"]))
    except DAMAGED as error:
        if data.source != HUGGING_FACE:
            return {}
        raise UserError(f"{file} can't be read ({error}): it tells which revision of {data.name} is used") from error
    if not origin:
        return {}
    if not root.is_dir():
        merged = OmegaConf.merge(data, origin)
        assert isinstance(merged, DictConfig)
        root = list_hub_dataset(merged).root
    del origin["manifest_columns"]  # of the dataset, not of the split file
    return {"root": str(root), **origin}


def previous_splits(table: ImageTable, file: Path) -> np.ndarray:
    """The split that each image has in an earlier split file; (n,) int8, `UNASSIGNED` for new images.

    Images that have been removed since are ignored.

    Args:
        table: all images.
        file: an earlier `split.csv` of this folder.

    Raises:
        UserError: the file is no manifest with splits, or none of its images is in the table.
    """
    split_of = {
        os.path.relpath(path, table.root) if os.path.isabs(path) else path: split
        for path, split in read_splits(file).items()
    }
    names = [normalize(path) for path in table.paths]
    found = [split_of.get(name, split_of.get(os.path.splitext(name)[0], UNASSIGNED)) for name in names]
    splits = np.array(found, dtype=np.int8)
    if (splits == UNASSIGNED).all():
        raise UserError(f"data.split.previous={file} has no split of an image in {table.root}")
    log.info("%s: %d of %d images keep their split", file, (splits != UNASSIGNED).sum(), len(splits))
    return splits
