"""Sources of datasets: an existing folder, a download, or the synthetic sample."""

import logging
import shutil
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.file_hashes import FileCheck, check_files, printable
from sports_lightning.data.formats import limit_pixels
from sports_lightning.data.image_folder import SPLIT_FOLDERS, DatasetIndex, Split, first_five, read_image_folder
from sports_lightning.data.sample.dataset import draw_sample
from sports_lightning.data.value_range import (
    Choose,
    Setting,
    ValueRange,
    choose_value_range,
    value_range_for_checkpoint,
)
from sports_lightning.errors import UserError
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.files import sync_to_disk
from sports_lightning.storage.locks import one_at_a_time

log = logging.getLogger(__name__)


def provide_data(data: DictConfig) -> Path:
    """Generate the sample or download the dataset of `conf/data/*.yaml` if it is missing, and return its root.

    Raises:
        UserError: the data is missing and is not to be downloaded, or the download fails.
    """
    root = Path(str(data.root)).expanduser()
    if root.exists() or not data.source:
        return root
    if data.source != "sample" and not data.download:
        raise UserError(
            f"data.root={root} does not exist: set data.root=FOLDER if you have {data.source}, "
            f"data.download=true to fetch it from Kaggle, or data=sample to try the synthetic sample"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(root, str(root)):
        if data.source == "sample":
            draw_sample(root)
        elif not root.exists():  # otherwise another process has downloaded it in the meantime
            _download(data.source, root)
    return root


def open_dataset(
    data: DictConfig,
    splits: list[str],
    classes: list[str] | None = None,
    choose: Choose = choose_value_range,
) -> DatasetIndex:
    """Open the dataset that `conf/data/*.yaml` names, and check that every image is readable.

    Warnings name classes without images in "val" or "test", and an image that is in two classes of a split.

    Args:
        data: the config; it decides whether the dataset is generated or downloaded first.
        splits: which of "train", "val", "test" to open.
        classes: the expected classes; by default the folders of `train`.
        choose: chooses the value range of the dataset; the default is for a new training.

    Raises:
        UserError: missing or empty folders, unknown classes, unreadable files, or 16- or 32-bit images without a
            value range.
    """
    limit_pixels(data.max_pixels)
    root = provide_data(data)
    index = read_image_folder(root, splits, classes)
    checks = {name: check_files(root, split.paths, resolve_cache_dir(data)) for name, split in index.splits.items()}
    _report_unreadable(index, checks, data.skip_unreadable)
    readable = {}
    for name, split in index.splits.items():
        good = [i for i, check in enumerate(checks[name]) if not check.problem]
        digests = (checks[name][i].digest for i in good)
        readable[name] = Split((split.paths[i] for i in good), split.labels[good], digests)
    value_range = _value_range(data.value_range, checks, choose, root)
    if value_range is not None:
        log.info("values of 16- and 32-bit images: %g is black, %g is white (data.value_range)", *value_range)
    index = DatasetIndex(root, index.classes, readable, value_range)
    _check_classes(index)
    for name, split in index.splits.items():
        _warn_of_two_labels(split, root / SPLIT_FOLDERS[name])
    return index


def _value_range(setting: Setting, checks: dict[str, list[FileCheck]], choose: Choose, root: Path) -> ValueRange | None:
    """The value range of the splits; that of "train" and "val" does not depend on whether "test" is opened too."""
    chosen_from = [name for name in checks if name != "test"] or ["test"]
    chosen = [check for name in chosen_from for check in checks[name]]
    value_range = choose(setting, chosen, str(root))
    if "test" not in checks or "test" in chosen_from:
        return value_range
    colors = [check for check in chosen if check.high_depth == "color"]  # dark ones may be in "test" only
    return value_range_for_checkpoint(
        value_range, setting, [*checks["test"], *colors], str(root / SPLIT_FOLDERS["test"])
    )


def _report_unreadable(index: DatasetIndex, checks: dict[str, list[FileCheck]], skip: bool) -> None:
    unreadable = {
        path: check.problem
        for name, split in index.splits.items()
        for path, check in zip(split.paths, checks[name], strict=True)
        if check.problem
    }
    if not unreadable:
        return
    listed = first_five([f"{printable(index.root / path)}: {why}" for path, why in unreadable.items()], "; ")
    if not skip:
        raise UserError(
            f"{len(unreadable)} unreadable: {listed}; repair or remove them, or set data.skip_unreadable=true"
        )
    log.warning("skipped %d unreadable: %s", len(unreadable), listed)


def _check_classes(index: DatasetIndex) -> None:
    for name in index.splits:
        folder = index.root / SPLIT_FOLDERS[name]
        missing = [index.classes[label] for label, count in enumerate(index.class_counts(name)) if not count]
        if missing and (name == "train" or len(missing) == len(index.classes)):
            raise UserError(f"class {missing[0]!r} has no readable images in {folder}")
        if missing:
            listed = first_five([printable(name) for name in missing])
            log.warning("%s has no images of %s: metrics cover the classes that occur", folder, listed)


def _warn_of_two_labels(split: Split, folder: Path) -> None:
    """Name one of the images that are in two classes of a split."""
    first: dict[str, int] = {}
    doubles = [
        i
        for i, (label, digest) in enumerate(zip(split.labels.tolist(), split.digests, strict=True))
        if split.labels[first.setdefault(digest, i)] != label
    ]
    if doubles:
        example, copy = (printable(split.paths[i]) for i in (first[split.digests[doubles[0]]], doubles[0]))
        log.warning(
            "%s has the same image in two classes, such as %s and %s, %d in all: audit lists them",
            folder, example, copy, len(doubles),
        )  # fmt: skip


def _download(handle: str, root: Path) -> None:
    """Download a Kaggle dataset and copy its train/ valid/ test/ to `root`, without its other files."""
    try:
        import kagglehub
    except ImportError as error:
        raise UserError("data.download=true needs kagglehub: pip install -e '.[download]'") from error
    try:
        fetched = Path(kagglehub.dataset_download(handle))
    except Exception as error:  # requests, kagglehub and zipfile each raise their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"can't download {handle} from Kaggle ({reason}); go online or set data.root=FOLDER") from error
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))  # one per process
    try:
        for name in SPLIT_FOLDERS.values():
            shutil.copytree(fetched / name, partial / name)
        partial.chmod(0o755)
        sync_to_disk(partial)
        partial.rename(root)
    except OSError:
        if not root.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
