"""The sample dataset: synthetic images of ten sports, for trying everything without a download.

Deterministic: the same images on every machine with the same Pillow.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sports_lightning.data.sample.scenes import SPORTS, draw_scene
from sports_lightning.storage.files import sync_to_disk

COUNTS = {"train": 120, "valid": 20, "test": 20}  # images per class


def draw_sample(root: Path) -> None:
    """Draw the dataset at `root` unless it exists: JPEGs in `train/`, `valid/`, `test/`, one folder per sport."""
    if root.exists():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    jobs = [
        (split_number, split, sport_number, sport, i)
        for split_number, (split, count) in enumerate(COUNTS.items())
        for sport_number, sport in enumerate(SPORTS)
        for i in range(count)
    ]
    try:
        for split_number, split, sport_number, sport, i in tqdm(
            jobs, "drawing the sample", unit="img", delay=2, leave=False, disable=None
        ):
            folder = partial / split / sport
            folder.mkdir(parents=True, exist_ok=True)
            draw_scene(sport, np.random.default_rng([split_number, sport_number, i])).save(
                folder / f"{i + 1:03d}.jpg", quality=90
            )
        partial.chmod(0o755)
        sync_to_disk(partial)
        os.rename(partial, root)
    except OSError:
        if not root.is_dir():  # else another process was first; its images are the same
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
