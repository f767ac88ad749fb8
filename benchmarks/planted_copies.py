"""The recall of the audit's duplicate search on planted duplicates of each kind.

    python benchmarks/planted_copies.py ROOT [--copies 500] [--seed 1]

Each kind is planted separately, as copies of images from all splits, and the whole dataset is searched. A crop
removes 5 % of the width and of the height: at one corner, at all sides together, or at each side.
"""

import argparse
import io
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from sports_lightning.data.image_folder import list_images
from sports_lightning.split.duplicates import find_duplicates
from sports_lightning.split.thumbnails import read_thumbnails


def cropped(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return image.crop(tuple(round(side) for side in box))

    return crop


def scaled(image: Image.Image) -> Image.Image:
    return image.resize([round(0.8 * side) for side in image.size], Image.Resampling.BICUBIC)


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded at quality 40": lambda image: image,
    "scaled by 0.8": scaled,
    "scaled by 0.8 and back": lambda image: scaled(image).resize(image.size, Image.Resampling.BICUBIC),
    "mirrored": ImageOps.mirror,
    "cropped at a corner": cropped(0.05, 0.05, 0, 0),
    "cropped all around": cropped(0.025, 0.025, 0.025, 0.025),
    "cropped by 5 % at each side": cropped(0.05, 0.05, 0.05, 0.05),
    "brightness + 10 %": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "brightness - 10 %": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    paths = list_images(options.root)
    started = time.perf_counter()
    small = read_thumbnails(options.root, paths).small
    read = time.perf_counter()
    own = find_duplicates(small, paths)
    compared = time.perf_counter()
    print(f"{len(paths):,} images: {read - started:.1f} s to read, {compared - read:.1f} s to compare")
    print(f"{len(own)} pairs among the original images\n")
    chosen = random.Random(options.seed).sample(range(len(paths)), options.copies)
    for kind, change in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{i}.jpg" for i in chosen]
            for i, name in zip(chosen, names, strict=True):
                buffer = io.BytesIO()
                copy = change(Image.open(options.root / paths[i]).convert("RGB"))
                copy.save(buffer, "JPEG", quality=40 if "quality" in kind else 95)
                (Path(folder) / name).write_bytes(buffer.getvalue())
            planted = read_thumbnails(Path(folder), names).small
        pairs = find_duplicates(np.concatenate([small, planted]), [*paths, *names])
        found = {(pair.first, pair.second) for pair in pairs}
        recall = sum((i, len(paths) + place) in found for place, i in enumerate(chosen)) / len(chosen)
        print(f"{kind:32} recall {recall:.3f}", flush=True)


if __name__ == "__main__":
    main()
