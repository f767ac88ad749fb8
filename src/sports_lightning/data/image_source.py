"""Labeled images, in a folder or from a user's own dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sports_lightning.data.image_folder import list_classes
from sports_lightning.errors import UserError


@runtime_checkable
class ImageSource(Protocol):
    """Labeled images by position.

    Attributes:
        classes: class names.
        labels: position in `classes` of each image.
    """

    @property
    def classes(self) -> Sequence[str]:  # noqa: D102
        ...

    @property
    def labels(self) -> Sequence[int]:  # noqa: D102
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Any:
        """The image: a path, a PIL image, a uint8 array (h, w, 3) or a uint8 tensor (3, h, w)."""
        ...


def check_labels(source: ImageSource) -> None:
    """Raise UserError unless a source has a label for each image, which is a position in its classes."""
    if len(source.labels) != len(source):
        raise UserError(f"a source of {len(source)} images has {len(source.labels)} labels")
    for index, label in enumerate(source.labels):
        if not 0 <= label < len(source.classes):
            raise UserError(
                f"image {index} of the source has the label {label}, and there are {len(source.classes)} classes: "
                f"leave out images without a label"
            )


class ClassFolder:
    """The images of a folder with one sub-folder per class, an `ImageSource`.

    Args:
        folder: such as `data/train`.

    Attributes:
        paths: of the images, relative to `folder`.

    Raises:
        UserError: no such folder, or no class folders in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder")
        files = list_classes(self.folder)
        if not files:
            raise UserError(f"{self.folder} has no class folders: put the images into one sub-folder per class")
        if "train" in files and "valid" in files:
            raise UserError(f"{self.folder} holds splits: pass one of them, such as {self.folder / 'test'}")
        self.classes = list(files)
        self.paths = [file for name in self.classes for file in files[name]]
        self.labels = [label for label, name in enumerate(self.classes) for _ in files[name]]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Path:
        """The path of the image."""
        return self.folder / self.paths[index]
