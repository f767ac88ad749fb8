"""The data of `finetune` as a folder with train/, valid/ and test/, as training requires it."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from sports_lightning.data.image_folder import SPLIT_FOLDERS
from sports_lightning.data.image_source import ImageSource
from sports_lightning.data.modes import to_rgb
from sports_lightning.errors import UserError

Images = str | Path | ImageSource


def provide_dataset_folder(train: Images, val: Images | None, test: Images | None, folder: Path) -> Path:
    """Return a folder with the splits of a dataset.

    Args:
        train: such a folder if there is no `val`, else a folder with one sub-folder per class, or an `ImageSource`.
        val: the validation images.
        test: the test images, if there are some.
        folder: where splits are linked or written, unless `train` is a folder with all of them. Splits that are there
            already are kept, for a run that is resumed.

    Raises:
        UserError: no validation images, or class names that cannot be folder names.
    """
    if val is None:
        if test is not None or not isinstance(train, str | Path):
            raise UserError("pass the validation images as val, from which the best epoch is chosen")
        root = Path(train).expanduser().absolute()
        if not (root / SPLIT_FOLDERS["val"]).is_dir():
            raise UserError(f"{root} has no folder {SPLIT_FOLDERS['val']}/: pass the validation images as val")
        return root
    for split, images in {"train": train, "val": val, "test": test}.items():
        target = folder / SPLIT_FOLDERS[split]
        if images is not None and not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(images, str | Path):
                target.symlink_to(Path(images).expanduser().absolute(), target_is_directory=True)
            else:
                _write_images(images, target)
    return folder


def _write_images(source: ImageSource, target: Path) -> None:
    """Write the images of a source as `target/CLASS/NUMBER.png`; files are linked."""
    for name in source.classes:
        if name in ("", ".", "..") or name.startswith(".") or set(name) & set("/\\\0"):
            raise UserError(f"class name {name!r} cannot be the name of a folder")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    for name in source.classes:
        (partial / name).mkdir(parents=True)
    for index, label in enumerate(source.labels):
        image = source.image(index)
        stem = partial / source.classes[label] / f"{index:08d}"
        if isinstance(image, str | Path):
            path = Path(image).absolute()
            stem.with_suffix(path.suffix).symlink_to(path)
        else:
            _to_pil(image).save(stem.with_suffix(".png"), compress_level=1)
    partial.rename(target)


def _to_pil(image: Image.Image | np.ndarray | Tensor) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, Tensor):
        image = image.permute(1, 2, 0).cpu().numpy()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"an image of a source must be uint8 RGB, not {image.dtype} of shape {image.shape}")
    return Image.fromarray(np.ascontiguousarray(image))
