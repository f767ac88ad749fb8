"""Where a data set comes from: a folder that is there, a download, or the drawn sample."""

import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.file_hashes import check_files, printable
from sports_lightning.data.image_folder import SPLIT_FOLDERS, DatasetIndex, Split, read_image_folder
from sports_lightning.data.sample.dataset import draw_sample
from sports_lightning.errors import UserError
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.files import sync_to_disk

log = logging.getLogger(__name__)


def provide_data(data: DictConfig) -> Path:
    """The root of `conf/data/*.yaml`, after drawing the sample or downloading what is missing.

    Raises:
        UserError: the data is neither there nor asked to be downloaded, or cannot be.
    """
    root = Path(str(data.root)).expanduser()
    if data.source == "sample":
        draw_sample(root)
    elif not root.exists() and data.source:
        if not data.download:
            raise UserError(
                f"data.root={root} does not exist: set data.root=FOLDER if you have {data.source}, "
                f"data.download=true to fetch it from Kaggle, or data=sample to try without"
            )
        _download(data.source, root)
    return root


def open_dataset(data: DictConfig, splits: list[str], classes: list[str] | None = None) -> DatasetIndex:
    """The index of the data set that `conf/data/*.yaml` names, with every image known to be readable.

    Args:
        data: where it is; it is drawn or downloaded first where it asks for that.
        splits: which of "train", "val", "test".
        classes: what to expect; the folders of `train` where not given.

    Raises:
        UserError: folders that are missing, empty or do not agree, or a file that is not an image.
    """
    root = provide_data(data)
    index = read_image_folder(root, splits, classes)
    entries = {name: check_files(root, split.paths, resolve_cache_dir(data)) for name, split in index.splits.items()}
    unreadable = {
        path: entry.problem
        for name, split in index.splits.items()
        for path, entry in zip(split.paths, entries[name], strict=True)
        if entry.problem
    }
    if unreadable:
        listed = "; ".join(f"{printable(root / path)}: {problem}" for path, problem in list(unreadable.items())[:5])
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        if not data.skip_unreadable:
            raise UserError(
                f"{len(unreadable)} unreadable: {listed}{more}; repair or remove them, or set data.skip_unreadable=true"
            )
        log.warning("skipped %d unreadable: %s%s", len(unreadable), listed, more)
    kept = {}
    for name, split in index.splits.items():
        good = [i for i, entry in enumerate(entries[name]) if not entry.problem]
        digests = (entries[name][i].digest for i in good)
        kept[name] = Split((split.paths[i] for i in good), split.labels[good], digests)
    index = DatasetIndex(root, index.classes, kept)
    for name in splits:
        for label, count in enumerate(index.class_counts(name)):
            if not count:
                folder = root / SPLIT_FOLDERS[name] / index.classes[label]
                raise UserError(f"class {index.classes[label]!r} has no readable images in {folder}")
    return index


def _download(handle: str, root: Path) -> None:
    """Fetch a Kaggle data set and put its train/ valid/ test/ at `root`; what else it holds is left behind."""
    try:
        import kagglehub
    except ImportError as error:
        raise UserError("data.download=true needs kagglehub: pip install -e '.[download]'") from error
    try:
        fetched = Path(kagglehub.dataset_download(handle))
    except Exception as error:  # requests, kagglehub and zipfile each raise their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"can't download {handle} from Kaggle ({reason}); go online or set data.root=FOLDER") from error
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in SPLIT_FOLDERS.values():
        shutil.copytree(fetched / name, partial / name)
    sync_to_disk(partial)
    partial.rename(root)
