"""Search for duplicates among a million images: time, memory, and how many planted ones are found.

    python benchmarks/million_images.py ROOT [--images 1000000] [--copies 1000] [--seed 1]

Reading that many files takes linear time and is not measured. The benchmark compares thumbnails as the audit makes
them from files: those of the images below ROOT, with random signs on their frequencies, which look like noise but have
the spectra of photographs. Planted duplicates are some of these again, in turn mirrored, 10 % darker, or cropped by 3 %
at each side.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn, idctn

from sports_lightning.data.image_folder import list_images
from sports_lightning.split.duplicates import find_duplicates
from sports_lightning.split.thumbnails import SIDE, read_thumbnails


def cropped(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (1, 1, SIDE - 1, SIDE - 1)))


CHANGES = (lambda pixels: pixels[:, ::-1], lambda pixels: (0.9 * pixels).astype(np.uint8), cropped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--copies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    own = read_thumbnails(options.root, list_images(options.root)).small
    draws = np.random.default_rng(options.seed)
    small = np.empty((options.images + options.copies, SIDE, SIDE), np.uint8)
    spectra = dctn(own.astype(np.float32), axes=(1, 2), norm="ortho")
    for first in range(0, options.images, len(own)):
        signs = draws.choice(np.float32([-1, 1]), size=spectra.shape)
        signs[:, 0, 0] = 1  # the mean
        scrambled = idctn(spectra * signs, axes=(1, 2), norm="ortho").clip(0, 255)
        small[first : min(first + len(own), options.images)] = scrambled[: options.images - first]
    originals = draws.choice(options.images, options.copies, replace=False)
    for place, original in enumerate(originals):
        small[options.images + place] = CHANGES[place % len(CHANGES)](small[original])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    started = time.perf_counter()
    pairs = find_duplicates(small, [str(i) for i in range(len(small))])
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found = {(pair.first, pair.second) for pair in pairs}
    recall = sum((int(o), options.images + i) in found for i, o in enumerate(originals)) / options.copies
    print(f"{options.images:,} images: {seconds:.0f} s, {peak:.1f} GB peak ({before:.1f} before)")
    print(f"{len(found):,} pairs, {recall:.3f} of the planted ones among them")


if __name__ == "__main__":
    main()
