"""Inference throughput on a folder of images, relative to the forward pass alone.

    python benchmarks/inference_rate.py FOLDER_OF_JPEGS [--models resnet50 efficientnet_lite0] [--images 640]

Compares the path that evaluate, predict and the end of train share, from file names to logits including the start of
the workers, with the same network on one repeated batch. Both run in turn; the result is the median of the rounds'
ratios. Weights are random.
"""

import argparse
import logging
import random
import statistics
import time
from pathlib import Path

from sports_lightning.cli.process_setup import prepare_process

prepare_process()  # before torch is imported, as every command does

# ruff: noqa: E402
import torch
from hydra import compose, initialize_config_dir

from sports_lightning import CONF_DIR
from sports_lightning.data.dataset_index import Split
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.models.classifier import build_classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn


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
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose("evaluate", ["ckpt_path=none"])
            model_cfg = compose("train", [f"model={model}", "model.pretrained=false", "model.image_size=224"]).model
        classifier = build_classifier(model_cfg, [f"class {i}" for i in range(100)], options.root).eval()
        network = fuse_conv_bn(classifier)
        batch = torch.randint(256, (cfg.inference.batch_size, 3, 224, 224), dtype=torch.uint8)
        batch = batch.contiguous(memory_format=torch.channels_last)  # as the loaders create it
        rounds = []
        for _ in range(options.rounds):
            started = time.perf_counter()
            compute_logits(classifier, options.root, split, cfg.inference)
            whole = time.perf_counter() - started
            started = time.perf_counter()
            with torch.inference_mode():
                for _ in range(len(files) // len(batch)):
                    network(batch)
            alone = time.perf_counter() - started
            rounds.append((len(files) / whole, len(files) // len(batch) * len(batch) / alone))
        rates = [statistics.median(column) for column in zip(*rounds, strict=True)]
        ratios = [a / b for a, b in rounds]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{model}: {rates[0]:.1f} img/s, {rates[1]:.1f} alone, ratio {statistics.median(ratios):.2f} ({each})",
            flush=True,
        )


if __name__ == "__main__":
    main()
