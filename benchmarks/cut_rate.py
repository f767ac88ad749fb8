"""Seconds and peak memory of cutting a table of images into splits, once the digests and near copies are known.

python benchmarks/cut_rate.py 100000 1000000
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from sports_lightning import CONF_DIR
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.split.cut import cut
from sports_lightning.storage.packed_strings import PackedStrings

CLASSES, NEAR_COPIES = 1000, 0.02  # pairs per image


def table_of(count: int, draws: np.random.Generator) -> ImageTable:
    """A table of images in one folder per class, without splits."""
    names = [f"class{label:04d}" for label in range(CLASSES)]
    labels = np.sort(draws.integers(0, CLASSES, count))
    paths = PackedStrings(f"{names[label]}/{i:07d}.jpg" for i, label in enumerate(labels.tolist()))
    splits = np.full(count, UNASSIGNED, dtype=np.int8)
    places = {"": "images", "train": "images/train"}
    return ImageTable(Path("images"), names, paths, labels, splits, None, {"": names}, places, "")


def measure(count: int) -> dict[str, float]:
    """Cut a table of this many images."""
    draws = np.random.default_rng(0)
    table = table_of(count, draws)
    digests = [draws.bytes(16).hex() for _ in range(count)]
    first = draws.integers(0, count - 20, int(count * NEAR_COPIES))
    pairs = list(zip(first.tolist(), (first + draws.integers(1, 20, len(first))).tolist(), strict=True))
    settings = OmegaConf.load(Path(CONF_DIR) / "data" / "folder.yaml")
    assert OmegaConf.is_dict(settings)
    started = time.monotonic()
    found = cut(table, digests, pairs, settings)  # type: ignore[arg-type]
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    test = float((found.splits == 2).mean())
    return {"images": count, "seconds": round(seconds, 2), "peak_mb": round(peak / 2**20), "test_share": round(test, 4)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="+")
    for count in parser.parse_args().images:
        print(json.dumps(measure(count)), flush=True)
