"""Inference throughput on a folder of images, relative to the forward pass alone and to decoding alone.

    python benchmarks/inference_rate.py FOLDER_OF_JPEGS [--models resnet50 efficientnet_lite0] [--images 640]

Compares the path that evaluate, predict and the end of train share, from file names to logits including the start of
the workers, with the same network on one repeated batch, and with the same loader without a network. They run in turn;
the result is the median of the rounds' ratios. On a CPU, decoding and network share the cores, so that the sum of both
is what can be reached where each uses all of them. Weights are random.
"""

import argparse
import logging
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from sports_lightning.cli.process_setup import prepare_process

prepare_process()  # before torch is imported, as every command does

# ruff: noqa: E402
import torch
from hydra import compose, initialize_config_dir

from sports_lightning import CONF_DIR
from sports_lightning.data.datamodule import build_loader, count_workers
from sports_lightning.data.dataset_index import Split
from sports_lightning.inference.predictor import compute_logits, evaluation_images
from sports_lightning.models.classifier import build_classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn

Round = tuple[float, float, float]  # seconds of the whole, of the network alone and of decoding alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet50", "efficientnet_lite0"])
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    files = sorted(str(path.relative_to(options.root)) for path in options.root.rglob("*.jpg"))
    files = random.Random(0).sample(files, options.images)
    split = Split(files, [0] * len(files))
    for model in options.models:
        measure(model, options.root, split, options.rounds)


def measure(model: str, root: Path, split: Split, repeats: int) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("evaluate", ["ckpt_path=none"])
        model_cfg = compose("train", [f"model={model}", "model.pretrained=false", "model.image_size=224"]).model
    classifier = build_classifier(model_cfg, [f"class {i}" for i in range(100)], root).eval()
    network = fuse_conv_bn(classifier)
    batch = torch.randint(256, (cfg.inference.batch_size, 3, 224, 224), dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)  # as the loaders create it
    count, batch_size = len(split.paths), cfg.inference.batch_size
    images = evaluation_images(classifier, root, split)
    loader = build_loader(images, batch_size, count_workers(cfg.inference.num_workers, "cpu"), "cpu")
    rounds = []
    for _ in range(repeats):
        whole = seconds(lambda: compute_logits(classifier, root, split, cfg.inference))
        alone = seconds(lambda: [network(batch) for _ in range(math.ceil(count / batch_size))])
        decoding = seconds(lambda: deque(loader, maxlen=0))
        rounds.append((whole, alone, decoding))
    whole, alone, decoding = (count / statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"{model}: {whole:.1f} images/s; the network alone {alone:.1f}, decoding alone {decoding:.1f}; "
        f"time divided by that of the network {ratio(rounds, lambda each: each[1])}, "
        f"of the slower one {ratio(rounds, lambda each: max(each[1:]))}, "
        f"of both in sum {ratio(rounds, lambda each: sum(each[1:]))}",
        flush=True,
    )


def ratio(rounds: list[Round], reference: Callable[[Round], float]) -> str:
    """The median of the ratios, and all of them."""
    ratios = [each[0] / reference(each) for each in rounds]
    return f"{statistics.median(ratios):.2f} ({', '.join(f'{each:.2f}' for each in ratios)})"


@torch.inference_mode()
def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
