"""Ours at its defaults against `plain_loop.py`: whole trainings in turn, the medians of the rounds' ratios.

    python benchmarks/against_plain_loop.py [ROOT] [--models resnet50 simple_cnn] [--steps 6] [--rounds 3]

ROOT is a data set with train/ valid/; the drawn sample where it is left out. Rates are those of the second of two
epochs of a few steps; weights are random. Memory is the peak of the whole process tree, what processes share counted
once (PSS, Linux only), looked at once a second. Run it on an otherwise idle machine.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

NAMES = {"resnet50": "resnet50", "simple_cnn": "simple_cnn", "efficientnet_lite0": "tf_efficientnet_lite0"}
HERE = Path(__file__).parent


def ours(root: str, model: str, batch_size: int, steps: int) -> tuple[float, float]:
    """Images a second, GiB."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "data=folder", f"data.root={root}", f"model={model}", "model.pretrained=false", "model.image_size=224",
            f"data.batch_size={batch_size}", "augment=standard", "trainer.max_epochs=2", "scheduler.warmup_epochs=0",
            f"trainer.limit_train_batches={steps}", "trainer.limit_val_batches=1", "trainer.enable_progress_bar=false",
            "test=false", "logger=csv", f"hydra.run.dir={folder}/run",
        ]  # fmt: skip
        _, memory = _run("-m", "sports_lightning.train", *overrides)
        with (Path(folder) / "run/timings.csv").open(newline="") as file:
            return float(list(csv.DictReader(file))[-1]["images_per_second"]), memory


def plain(root: str, model: str, batch_size: int, steps: int) -> tuple[float, float]:
    """Images a second, GiB."""
    printed, memory = _run(str(HERE / "plain_loop.py"), f"{root}/train", NAMES[model], str(batch_size), str(steps))
    return float(printed.split()[-1]), memory


def _run(*arguments: str) -> tuple[str, float]:
    """What a python process printed, and the peak of its tree's memory in GiB."""
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        process = psutil.Popen([sys.executable, *arguments], stdout=output, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(1)
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)} failed")
        output.seek(0)
        return output.read(), peak / 2**30


def _memory(process: psutil.Popen) -> int:
    """Bytes of the whole tree."""
    total = 0
    with suppress(psutil.Error):  # one that has just ended
        for each in [process, *process.children(recursive=True)]:
            total += each.memory_full_info().pss
    return total


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
        from sports_lightning.data.sample.dataset import draw_sample

        root = "data/sample"
        draw_sample(Path(root))
    print(f"{'model':20} {'':10} {'ours':>8} {'plain':>8}  ratio (each round)", flush=True)
    for model in options.models:
        settings = root, model, options.batch_size, options.steps
        rounds = [(ours(*settings), plain(*settings)) for _ in range(options.rounds)]
        for column, unit in enumerate(("img/s", "peak, GiB")):
            of_ours, of_plain = ([run[column] for run in runs] for runs in zip(*rounds, strict=True))
            ratios = [a / b for a, b in zip(of_ours, of_plain, strict=True)]
            medians = f"{statistics.median(of_ours):8.2f} {statistics.median(of_plain):8.2f}"
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{model:20} {unit:10} {medians}  {statistics.median(ratios):.2f} ({each})", flush=True)


if __name__ == "__main__":
    main()
