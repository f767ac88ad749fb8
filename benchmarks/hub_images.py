"""Images in a local Parquet file (data=huggingface) against the same images as files: listing, memory, speed.

    python benchmarks/hub_images.py FOLDER [--images 100000]

Draws the images into FOLDER on the first call. Each kind is listed and checked in a process of its own. Then batches
of training images, decoded and augmented, are loaded from both in turns, in the shuffled order of a first epoch.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SIDE, BATCH, BLOCK = 100, 64, 64, 2000


def draw(folder: Path, count: int) -> None:
    """`count` JPEGs of smooth noise, in class folders and in one Parquet file."""
    import datasets

    paths, labels = [], []
    for i in range(count):
        path = folder / "files" / f"class{i % CLASSES:02d}" / f"{i:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
        labels.append(i % CLASSES)
    names = [f"class{i:02d}" for i in range(CLASSES)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})

    def rows():  # type: ignore[no-untyped-def]
        for path, label in zip(paths, labels, strict=True):
            yield {"image": {"bytes": path.read_bytes(), "path": path.name}, "label": label}

    datasets.Dataset.from_generator(rows, features).to_parquet(folder / "images.parquet")


def settings(kind: str, folder: Path):  # type: ignore[no-untyped-def]
    from omegaconf import OmegaConf

    from sports_lightning import CONF_DIR

    source = {"root": str(folder / "files")}
    if kind == "parquet":
        source = {"source": "huggingface", "name": str(folder / "images.parquet")}
    data = OmegaConf.load(Path(CONF_DIR) / "data" / "folder.yaml")
    return OmegaConf.merge(data, {"cache_dir": str(folder / "cache"), **source})


def measure(kind: str, folder: Path) -> dict[str, float]:
    """Seconds and memory of listing and of reading every image once, in this process."""
    from sports_lightning.data.file_hashes import check_files
    from sports_lightning.data.source import list_dataset

    data = settings(kind, folder)
    found: dict[str, float] = {}
    for step in ("list, first time", "list, again"):
        start = time.perf_counter()
        table = list_dataset(data)
        found[f"{step}, s"] = time.perf_counter() - start
    found["memory after listing, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for step in ("check, first time", "check, again"):
        start = time.perf_counter()
        check_files(table.root, table.paths, folder / "cache" / kind)
        found[f"{step}, s"] = time.perf_counter() - start
    found["peak memory (with mapped pages), MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def rates(folder: Path, count: int) -> dict[str, float]:
    """Images per second of a first epoch's batches from both, in turns of `BLOCK` images."""
    from hydra import compose, initialize_config_dir

    from sports_lightning import CONF_DIR
    from sports_lightning.data.augment import EpochTransform
    from sports_lightning.data.dataset import TrainingImages
    from sports_lightning.data.dataset_index import Split
    from sports_lightning.data.decoded_cache import ImageFiles
    from sports_lightning.data.preprocessing import Preprocessing
    from sports_lightning.data.sampler import EpochSampler
    from sports_lightning.data.source import list_dataset

    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        augment = compose("train").augment
    augment.preprocessing = Preprocessing((SIDE, SIDE), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center").to_dict()
    sets = {}
    for kind in ("files", "parquet"):
        table = list_dataset(settings(kind, folder))
        images = ImageFiles(table.root, Split(table.paths, table.labels), SIDE)
        sets[kind] = TrainingImages(images, table.labels, EpochTransform(augment), 0)
    keys = EpochSampler(count, 0).items()
    seconds = dict.fromkeys(sets, 0.0)
    for block in range(0, count, BLOCK):
        for kind in list(sets)[:: 1 if block // BLOCK % 2 else -1]:
            start = time.perf_counter()
            for i in range(block, min(block + BLOCK, count), BATCH):
                sets[kind].__getitems__(keys[i : i + BATCH])
            seconds[kind] += time.perf_counter() - start
    return {f"{kind}, img/s": count / value for kind, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--step", choices=["files", "parquet", "rates"])
    arguments = parser.parse_args()
    folder, count = arguments.folder, arguments.images
    if arguments.step:
        found = rates(folder, count) if arguments.step == "rates" else measure(arguments.step, folder)
        print(json.dumps(found))
        return
    if not (folder / "images.parquet").exists():
        draw(folder, count)
    print(f"{count:,} images, Parquet file of {(folder / 'images.parquet').stat().st_size / 1e6:.0f} MB")
    for step in ("files", "parquet", "rates"):
        command = [sys.executable, __file__, str(folder), "--images", str(count), "--step", step]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(printed.splitlines()[-1])
        print(step, ", ".join(f"{name}: {value:,.1f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
