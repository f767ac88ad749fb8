"""The recall of the audit's duplicate search on planted duplicates of each kind.

    python benchmarks/planted_copies.py ROOT [--copies 500] [--seed 1] [--kinds crop text …]

Each kind is planted separately, as copies of images from all splits, and the whole dataset is searched. A crop
removes 5 % of the width and of the height: at one corner, at all sides together, or at each side. The last kinds are
beyond what thumbnails show (see `crops`): a crop of 60 % of the area, with up to 1.25 times another aspect, at the size
of the original; strips of text; other colors.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from sports_lightning.data.image_folder import list_images
from sports_lightning.split.blobs import Blobs
from sports_lightning.split.crops import find_crops
from sports_lightning.split.duplicates import DuplicatePair, find_duplicates
from sports_lightning.split.thumbnails import Thumbnails, read_images


def cropped(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return image.crop(tuple(round(side) for side in box))

    return crop


def scaled(image: Image.Image) -> Image.Image:
    return image.resize([round(0.8 * side) for side in image.size], Image.Resampling.BICUBIC)


def crop_60(image: Image.Image) -> Image.Image:
    """A random part with 60 % of the area, scaled to the size of the original."""
    draws = random.Random(image.tobytes()[:1000])
    width = min(1.0, (0.6 * draws.uniform(0.8, 1.25)) ** 0.5)
    left, top = draws.uniform(0, 1 - width), draws.uniform(0, 1 - 0.6 / width)
    crop = cropped(left, top, 1 - left - width, 1 - top - 0.6 / width)
    return crop(image).resize(image.size, Image.Resampling.BICUBIC)


def strip(share: float, beside: bool) -> Callable[[Image.Image], Image.Image]:
    """A strip of text with a share of the height, over the lower edge or below it, at the size of the original."""

    def write(image: Image.Image) -> Image.Image:
        width, height = image.size
        high = round(share * height)
        copy = Image.new("RGB", (width, height + high * beside), "white")
        copy.paste(image)
        draw = ImageDraw.Draw(copy)
        draw.rectangle((0, copy.height - high, width, copy.height), fill=(250, 250, 245))
        draw.text(
            (5, copy.height - high), "Championship 2024: the final", fill="black", font=ImageFont.load_default(high / 2)
        )
        return copy.resize(image.size, Image.Resampling.BICUBIC)

    return write


def hue_shifted(degrees: int) -> Callable[[Image.Image], Image.Image]:
    def shift(image: Image.Image) -> Image.Image:
        hue, saturation, value = image.convert("HSV").split()
        moved = hue.point(lambda level: (level + round(degrees / 360 * 256)) % 256)
        return Image.merge("HSV", (moved, saturation, value)).convert("RGB")

    return shift


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
    "crop of 60 % of the area": crop_60,
    "crop of 60 %, mirrored": lambda image: ImageOps.mirror(crop_60(image)),
    "text over 15 %": strip(0.15, beside=False),
    "text below, 20 %": strip(0.2, beside=True),
    "hue + 60 degrees": hue_shifted(60),
    "hue + 180 degrees": hue_shifted(180),
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "brightness + 50 %": lambda image: ImageEnhance.Brightness(image).enhance(1.5),
    "brightness - 50 %": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
}


def search(
    root: Path, paths: list[str], thumbnails: Thumbnails, blobs: list[Blobs]
) -> tuple[list[DuplicatePair], list[DuplicatePair]]:
    """The pairs of `find_duplicates` and those of `find_crops`."""
    pairs = find_duplicates(thumbnails.small, paths)
    return pairs, find_crops(root, paths, paths, None, thumbnails, blobs, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=[""], help="only kinds that contain one of these words")
    options = parser.parse_args()
    root = options.root.absolute()
    paths = [str(root / path) for path in list_images(root)]
    started = time.perf_counter()
    thumbnails, blobs = read_images(root, paths)
    read = time.perf_counter()
    near, verified = search(root, paths, thumbnails, blobs)
    compared = time.perf_counter()
    print(f"{len(paths):,} images: {read - started:.1f} s to read, {compared - read:.1f} s to compare")
    print(f"{len(near)} pairs and {len(verified)} verified ones among the original images\n")
    own = {(pair.first, pair.second) for pair in near + verified}
    chosen = random.Random(options.seed).sample(range(len(paths)), options.copies)
    for kind, change in KINDS.items():
        if not any(word in kind for word in options.kinds):
            continue
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{folder}/{i}.jpg" for i in chosen]
            for i, name in zip(chosen, names, strict=True):
                copy = change(Image.open(paths[i]).convert("RGB"))
                copy.save(name, "JPEG", quality=40 if "quality" in kind else 95)
            planted, planted_blobs = read_images(root, names)
            arrays = [np.concatenate([getattr(t, f) for t in (thumbnails, planted)]) for f in ("small", "size", "grey")]
            found = search(root, paths + names, Thumbnails(*arrays), blobs + planted_blobs)
        near, both = ({(p.first, p.second) for p in pairs} for pairs in (found[0], [*found[0], *found[1]]))
        shares = [
            sum((i, len(paths) + n) in pairs for n, i in enumerate(chosen)) / len(chosen) for pairs in (near, both)
        ]
        false = sum(i < len(paths) <= j and chosen[j - len(paths)] != i for i, j in both - own)
        print(f"{kind:32} recall {shares[1]:.3f}, by thumbnails {shares[0]:.3f}; {false} pairs with others", flush=True)


if __name__ == "__main__":
    main()
