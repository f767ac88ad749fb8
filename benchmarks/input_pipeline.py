"""Decoding and `augment=standard` on one core, compared with Pillow and torchvision's v1 transforms.

    python benchmarks/input_pipeline.py FOLDER_OF_JPEGS

CPU milliseconds per image in a data-loading worker, as in training; ours also with cached images (`data.cache`).
Medians of five alternating passes over up to 500 images. Ours returns uint8 (normalization runs on the device, in
batches), the other side normalized floats.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from plain_loop import TRANSFORM
from sports_lightning import CONF_DIR
from sports_lightning.cli.process_setup import prepare_process
from sports_lightning.data.augment import EpochTransform
from sports_lightning.data.dataset import TrainingImages
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.preprocessing import Preprocessing

ROUNDS = 5


class Passes(Dataset[float]):
    """Each item is a pass over `count` images by one of `loads`, in turn: its CPU milliseconds per image."""

    def __init__(self, loads: Sequence[Callable[[int], object]], count: int) -> None:
        self.loads, self.count = loads, count

    def __len__(self) -> int:
        return ROUNDS * len(self.loads)

    def __getitem__(self, index: int) -> float:
        load = self.loads[index % len(self.loads)]
        started = time.process_time()
        for i in range(self.count):
            load(i)
        return (time.process_time() - started) / self.count * 1e3


def main() -> None:
    prepare_process()  # as every command does; both sides profit
    root = Path(sys.argv[1])
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
    paths = random.Random(0).sample(paths, min(500, len(paths)))

    def usual(i: int) -> torch.Tensor:
        with Image.open(root / paths[i]) as image:
            return TRANSFORM(image.convert("RGB"))

    preprocessing = Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")
    with tempfile.TemporaryDirectory() as cache:
        none, standard = (OmegaConf.load(CONF_DIR / "augment" / f"{name}.yaml") for name in ("none", "standard"))
        augment = OmegaConf.create({"augment": OmegaConf.merge(none, standard)}).augment
        augment.preprocessing = preprocessing.to_dict()
        split = Split(paths, [0] * len(paths), [entry.digest for entry in check_files(root, paths)])
        for name, cache_mode in (("ours", None), ("ours, data.cache=disk", "disk")):
            images = open_images(root, split, preprocessing.least_side, cache_mode, Path(cache))
            dataset = TrainingImages(images, split.labels, EpochTransform(augment), seed=0)
            passes = Passes([usual, lambda i, dataset=dataset: dataset[0, i, 0]], len(paths))  # type: ignore[misc]
            each = [float(ms) for ms in DataLoader(passes, None, num_workers=1)]
            usual_ms, ours_ms = statistics.median(each[::2]), statistics.median(each[1::2])
            ratio = statistics.median(theirs / mine for theirs, mine in zip(each[::2], each[1::2], strict=True))
            print(f"{name}: {ours_ms:.3f} ms, Pillow and v1: {usual_ms:.3f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
