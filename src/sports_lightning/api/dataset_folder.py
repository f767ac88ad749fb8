"""The data of `finetune` as a folder with train/, valid/ and test/, as training requires it."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION
from torch import Tensor

from sports_lightning.data.folder_layout import SPLIT_FOLDERS, UNSPLIT, recognize
from sports_lightning.data.formats import is_image_name
from sports_lightning.data.image_folder import list_classes
from sports_lightning.data.image_source import ImageSource, check_labels
from sports_lightning.data.modes import high_depth_kind, is_min_white, to_rgb, upright
from sports_lightning.errors import UserError
from sports_lightning.storage.files import write_text

Images = str | Path | ImageSource

_MARKER = ".written_by_finetune"  # in a folder that may be deleted and written again
_DIGESTS = ".digests.json"  # in the folder of a split; names that start with "." are not read as images


def dataset_root(train: Images, val: Images | None, test: Images | None, folder: Path) -> Path:
    """Return the root of the dataset, without writing anything.

    Args:
        train: a folder with all images if `val` is None; else a folder with one sub-folder per class, or an
            `ImageSource`.
        val: the validation images.
        test: the test images, if there are any.
        folder: the root if `train` is not a folder with all splits.

    Raises:
        UserError: no validation images, or a path that is not a folder.
    """
    for images in (train, val, test):
        if isinstance(images, str | Path) and not _absolute(images).is_dir():
            raise UserError(f"{images} is not a folder")
    if val is not None:
        return folder
    if test is not None or not isinstance(train, str | Path):
        raise UserError("pass the validation images as val, from which the best epoch is chosen")
    return _absolute(train)


def holds_test_images(root: Path) -> bool:
    """Whether a folder has a test split, or images without splits, of which some become one."""
    return not {UNSPLIT, "test"}.isdisjoint(recognize(root).folders)


def given_splits(train: Images, val: Images | None, test: Images | None) -> dict[str, Images]:
    """{split: images} of the splits to write; {} if `train` is a folder with all of them."""
    if val is None:
        return {}
    return {"train": train, "val": val, **({} if test is None else {"test": test})}


def write_splits(splits: dict[str, Images], folder: Path) -> None:
    """Link or write the images of each split as `folder/{train,valid,test}`, in place of those of an earlier call.

    Args:
        splits: by name, "train", "val" or "test".
        folder: the root of the dataset.

    Raises:
        UserError: `folder` was not written by this function, or the images of a source cannot be written.
    """
    if folder.exists():
        if not (folder / _MARKER).exists():
            raise UserError(f"{folder} exists and was not written by finetune: choose another run_dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()
    for split, images in splits.items():
        target = folder / SPLIT_FOLDERS[split]
        if isinstance(images, str | Path):
            target.symlink_to(_absolute(images), target_is_directory=True)
        else:
            _write_images(images, target)


def check_splits(splits: dict[str, Images], folder: Path) -> None:
    """Check that a run is resumed with the images it was started with; see `write_splits`.

    Folders are compared by path, sources by the number, the labels and the digests (if they have any) of their images.

    Raises:
        UserError: a split differs.
    """
    for split, images in splits.items():
        target = folder / SPLIT_FOLDERS[split]
        if not _holds(target, images):
            raise UserError(
                f"{target} of the interrupted run holds other images than those passed as {split}: pass the same "
                "images, or choose another run_dir"
            )


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _holds(target: Path, images: Images) -> bool:
    """Whether `target` links to this folder, or was written from the images of this source."""
    if isinstance(images, str | Path):
        return target.is_symlink() and target.readlink() == _absolute(images)
    if target.is_symlink() or not target.is_dir():
        return False
    written = {Path(file).stem: name for name, files in list_classes(target).items() for file in files}
    digests = json.loads((target / _DIGESTS).read_text(encoding="utf-8"))
    labels = {f"{index:08d}": images.classes[label] for index, label in enumerate(images.labels)}
    return written == labels and digests == _digests(images)


def _digests(source: ImageSource) -> list[str | None]:
    """The digest of each image; [] if the source has none."""
    digest = getattr(source, "digest", None)
    return [digest(index) for index in range(len(source))] if digest else []


def _write_images(source: ImageSource, target: Path) -> None:
    """Write the images of a source as `target/CLASS/NUMBER.png` (.tif for 16 and 32 bits); files are linked."""
    _check_source(source)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name in source.classes:
            (partial / name).mkdir()
        if skipped := set(source.classes) - set(list_classes(partial)):
            raise UserError(f"class name {min(skipped)!r} cannot be used: folders of this name are skipped")
        for index, label in enumerate(source.labels):
            _write_image(source.image(index), partial / source.classes[label] / f"{index:08d}")
        write_text(partial / _DIGESTS, json.dumps(_digests(source)))
        assert _holds(partial, source)
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_source(source: ImageSource) -> None:
    for name in source.classes:
        if not isinstance(name, str):
            raise UserError(f"class name {name!r} is no text")
        if name in ("", ".", "..") or name.startswith(".") or set(name) & set("/\\\0"):
            raise UserError(f"class name {name!r} cannot be the name of a folder")
    if len(set(source.classes)) != len(source.classes):
        raise UserError("a source has two classes with the same name")
    check_labels(source)


def _write_image(image: str | Path | Image.Image | np.ndarray | Tensor, stem: Path) -> None:
    if isinstance(image, str | Path):
        path = _absolute(image)
        # Images are found by their suffix; which format a file has is decided by its content.
        suffix = path.suffix if is_image_name(path.name) else ".png"
        stem.with_suffix(suffix).symlink_to(path)
    else:
        pixels = _to_pil(image)
        if high_depth_kind(pixels):  # PNG has no 32 bits
            tags = {PHOTOMETRIC_INTERPRETATION: 0} if is_min_white(pixels) else {}
            pixels.save(stem.with_suffix(".tif"), tiffinfo=tags)
        else:
            pixels.save(stem.with_suffix(".png"), compress_level=1)


def _to_pil(image: Image.Image | np.ndarray | Tensor) -> Image.Image:
    if isinstance(image, Image.Image):
        # The range of 16- and 32-bit pixels is that of the whole dataset, chosen once it is written.
        return upright(image) if high_depth_kind(image) else to_rgb(image)
    if isinstance(image, Tensor):
        image = image.movedim(0, -1).cpu().numpy() if image.ndim else image.cpu().numpy()
    if not isinstance(image, np.ndarray):
        kinds = "a path, a PIL image, an array or a tensor"
        raise UserError(f"an image of a source must be {kinds}, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"an image of a source must be uint8 RGB, not {image.dtype} of shape {image.shape}")
    return Image.fromarray(np.ascontiguousarray(image))
