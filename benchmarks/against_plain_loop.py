"""Ours at its defaults against `plain_loop.py`: whole trainings in turn, the median of the rounds' ratios.

    python benchmarks/against_plain_loop.py [ROOT] [--models resnet50 simple_cnn] [--steps 6] [--rounds 3]

ROOT is a data set with train/ valid/; the drawn sample where it is left out. Rates are those of the second of two
epochs of a few steps; weights are random. Run it on an otherwise idle machine.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = {"resnet50": "resnet50", "simple_cnn": "simple_cnn", "efficientnet_lite0": "tf_efficientnet_lite0"}
HERE = Path(__file__).parent


def ours(root: str, model: str, batch_size: int, steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "data=folder", f"data.root={root}", f"model={model}", "model.pretrained=false", "model.image_size=224",
            f"data.batch_size={batch_size}", "augment=standard", "trainer.max_epochs=2", "scheduler.warmup_epochs=0",
            f"trainer.limit_train_batches={steps}", "trainer.limit_val_batches=1", "trainer.enable_progress_bar=false",
            "test=false", "logger=csv", f"hydra.run.dir={folder}/run",
        ]  # fmt: skip
        _run("-m", "sports_lightning.train", *overrides)
        with (Path(folder) / "run/timings.csv").open(newline="") as file:
            return float(list(csv.DictReader(file))[-1]["images_per_second"])


def plain(root: str, model: str, batch_size: int, steps: int) -> float:
    printed = _run(str(HERE / "plain_loop.py"), f"{root}/train", NAMES[model], str(batch_size), str(steps))
    return float(printed.split()[-1])


def _run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?")
    parser.add_argument("--models", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    root = options.root
    if root is None:
        from sports_lightning.data.sample import draw_sample

        root = "data/sample"
        draw_sample(Path(root))
    print(f"{'model':20} {'ours':>8} {'plain':>8}  ratio (each round)", flush=True)
    for model in options.models:
        rounds = [
            (
                ours(root, model, options.batch_size, options.steps),
                plain(root, model, options.batch_size, options.steps),
            )
            for _ in range(options.rounds)
        ]
        ratios = [a / b for a, b in rounds]
        our_rate, plain_rate = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{model:20} {our_rate:8.2f} {plain_rate:8.2f}  {statistics.median(ratios):.2f} ({each})", flush=True)


if __name__ == "__main__":
    main()
