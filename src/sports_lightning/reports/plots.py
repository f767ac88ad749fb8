"""Plots of a run: learning curves, confusion matrix, and grids of captioned images."""

import io
import math
from pathlib import Path
from warnings import catch_warnings, filterwarnings

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from sports_lightning.data.decode import decode
from sports_lightning.data.file_hashes import printable
from sports_lightning.data.value_range import ValueRange
from sports_lightning.errors import UnreadableImage
from sports_lightning.runs.layout import curve
from sports_lightning.storage.files import write_bytes

_plain_text = rc_context({"text.parse_math": False})  # class names may contain $

_MOST_NAMED = 200  # classes whose names a confusion matrix shows

# Sizes of a grid, in pixels.
_GRID_DPI = 110
_SIDE, _MARGIN, _TITLE = 220, 5, 50
_CELL = (_SIDE + 2 * _MARGIN, _SIDE + 55)


@_plain_text
def curves(epochs: list[dict[str, str]], path: Path) -> None:
    """Plot loss and accuracy on train and val per epoch, from the rows of a run's `metrics.csv`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2), ("loss", "acc"), ("cross-entropy (nats)", "accuracy"), strict=True
    ):
        for split in ("train", "val"):
            points = curve(epochs, f"{split}/{name}")
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=split)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    _write(figure, path, 120)


@_plain_text
def confusion_matrix(confusion: Tensor, classes: list[str], path: Path) -> None:
    """Plot the confusion matrix, normalized per label; up to 200 classes are named, with the counts in the cells.

    With more classes the plot has a fixed size and no names.

    Args:
        confusion: (classes, classes) counts; rows are labels, columns predictions.
        classes: names.
        path: PNG to write.
    """
    counts = confusion.numpy()
    share = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    is_named = len(classes) <= _MOST_NAMED
    side = max(5.0, 0.24 * min(len(classes), _MOST_NAMED) + 2.5)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes: Axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if is_named:
        _name_classes(axes, counts, share, [_shown(name) for name in classes])
    _write(figure, path, 100)


def _name_classes(axes: Axes, counts: np.ndarray, share: np.ndarray, classes: list[str]) -> None:
    size = 9 if len(classes) <= 20 else 7.5
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=size)
    axes.set_yticks(range(len(classes)), classes, fontsize=size)
    axes.set_xticks(np.arange(len(classes)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes)) - 0.5, minor=True)
    axes.grid(which="minor", color="#ddd", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for row, column in zip(*counts.nonzero(), strict=True):
        axes.text(
            column, row, counts[row, column], ha="center", va="center", fontsize=size,
            color="white" if share[row, column] > 0.5 else "black",
        )  # fmt: skip


@_plain_text
def image_grid(
    paths: list[Path],
    captions: list[str],
    path: Path,
    value_range: ValueRange | None = None,
    title: str = "",
    columns: int = 6,
) -> None:
    """Draw a grid of images of any aspect ratio, with a caption of up to three lines under each.

    All of them are pasted into one image, which is several times faster than one axes per image.

    Args:
        paths: the images.
        captions: one for each.
        path: PNG to write.
        value_range: the values of 16- and 32-bit pixels that become black and white (see `decode`).
        title: above the grid.
        columns: images per row.
    """
    columns = min(columns, max(1, len(paths)))
    rows = math.ceil(len(paths) / columns)
    width, height = max(400, columns * _CELL[0]), _TITLE + rows * _CELL[1]
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(width / _GRID_DPI, height / _GRID_DPI))
    figure.text(0.5, 1 - 0.5 * _TITLE / height, title or "none", ha="center", va="center", fontsize=11)
    for place, (image, caption) in enumerate(zip(paths, captions, strict=True)):
        left, top = place % columns * _CELL[0], _TITLE + place // columns * _CELL[1]
        middle = (left + _CELL[0] / 2) / width
        try:
            tile = _thumbnail(decode(image, _SIDE, value_range)).permute(1, 2, 0).numpy()
            sheet[top : top + _SIDE, left + _MARGIN : left + _MARGIN + _SIDE] = tile
        except UnreadableImage:
            figure.text(middle, 1 - (top + _SIDE / 2) / height, "unreadable", ha="center")
        below = 1 - (top + _SIDE + _MARGIN) / height
        figure.text(middle, below, _shown(caption), fontsize=9, ha="center", va="top")
    figure.figimage(sheet, zorder=-1)
    _write(figure, path, _GRID_DPI)


def _thumbnail(image: Tensor) -> Tensor:
    """Fit a uint8 (3, h, w) image of any aspect ratio onto a white (3, 220, 220) square."""
    height, width = image.shape[1:]
    scale = _SIDE / max(height, width)
    size = [max(1, int(scale * height)), max(1, int(scale * width))]  # a thin image keeps at least one pixel
    image = F.resize(image, size)
    left, top = (_SIDE - size[1]) // 2, (_SIDE - size[0]) // 2
    return F.pad(image, [left, top, _SIDE - size[1] - left, _SIDE - size[0] - top], fill=255)


def _shown(text: str) -> str:
    """A text as matplotlib can draw it: bytes of names that are not UTF-8 are escaped."""
    return "\n".join(map(printable, text.split("\n")))


def _write(figure: Figure, path: Path, dpi: int) -> None:
    content = io.BytesIO()
    with catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from")  # a character without one is drawn as a box
        filterwarnings("ignore", "Matplotlib currently does not support .* natively")  # scripts with ligatures
        # Pillow's own level, 6, takes 0.8 s instead of 0.3 for a grid of 24 images, and saves a tenth of its size.
        figure.savefig(content, format="png", dpi=dpi, pil_kwargs={"compress_level": 3})
    write_bytes(path, content.getbuffer())
