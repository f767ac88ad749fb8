"""Where a data set comes from: a folder that is there, a download, or the drawn sample."""

import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.images import find_unreadable
from sports_lightning.data.index import SPLIT_FOLDERS, Index, read_index
from sports_lightning.data.sample import draw_sample
from sports_lightning.errors import UserError

log = logging.getLogger(__name__)


def open_dataset(data: DictConfig, splits: list[str], classes: list[str] | None = None) -> Index:
    """The index of `conf/data/*.yaml`, with every picture read once to its end.

    Args:
        data: the config.
        splits: which of "train", "val", "test".
        classes: what to expect; the folders of `train` where not given.

    Raises:
        UserError: no data, folders that do not agree, or a file that is not a picture (unless skip_unreadable).
    """
    root = Path(data.root)
    if data.source == "sample":
        draw_sample(root)
    elif not root.exists() and data.source:
        if not data.download:
            raise UserError(
                f"data.root={root} does not exist: set data.root=FOLDER if you have {data.source}, "
                f"data.download=true to fetch it from Kaggle, or data=sample to try without"
            )
        _download(data.source, root)
    index = read_index(root, splits, classes)
    paths = [path for split in index.splits.values() for path in split.paths]
    unreadable = find_unreadable(root, paths)
    if not unreadable:
        return index
    listed = "; ".join(f"{root / path}: {reason}" for path, reason in list(unreadable.items())[:5])
    more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    if not data.skip_unreadable:
        raise UserError(
            f"{len(unreadable)} unreadable: {listed}{more}; repair or remove them, or set data.skip_unreadable=true"
        )
    log.warning("skipped %d unreadable: %s%s", len(unreadable), listed, more)
    kept = {name: split.without(set(unreadable)) for name, split in index.splits.items()}
    index = Index(root, index.classes, kept)
    for name in kept:
        if 0 in index.class_counts(name):
            empty = index.classes[index.class_counts(name).index(0)]
            raise UserError(f"class {empty!r} has no readable pictures in {root / SPLIT_FOLDERS[name]}")
    return index


def _download(handle: str, root: Path) -> None:
    """Fetch a Kaggle data set and put its train/ valid/ test/ at `root`; what else it holds is left behind."""
    try:
        import kagglehub
    except ImportError as error:
        raise UserError("data.download=true needs kagglehub: pip install 'sports-lightning[download]'") from error
    try:
        fetched = Path(kagglehub.dataset_download(handle))
    except Exception as error:  # requests, kagglehub and zipfile each raise their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"can't download {handle} from Kaggle ({reason}); go online or set data.root=FOLDER") from error
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in SPLIT_FOLDERS.values():
        shutil.copytree(fetched / name, partial / name)
    partial.rename(root)
