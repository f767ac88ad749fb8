"""Training throughput and memory at the package's defaults, compared with `plain_loop.py`.

    python benchmarks/against_plain_loop.py [ROOT] [--models resnet50 simple_cnn] [--steps 6] [--rounds 3]

ROOT is a dataset with train/ and valid/; the default is the synthetic sample. Both sides run whole trainings in turn;
the result is the median of the rounds' ratios. Throughput is that of the second of two epochs of a few steps, with
random weights. Memory is the peak of the whole process tree, with shared pages counted once (PSS, Linux only),
sampled once per second. Run it on an otherwise idle machine.
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
    """Images per second and peak memory in GiB."""
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
    """Images per second and peak memory in GiB."""
    printed, memory = _run(str(HERE / "plain_loop.py"), f"{root}/train", NAMES[model], str(batch_size), str(steps))
    return float(printed.split()[-1]), memory


def _run(*arguments: str) -> tuple[str, float]:
    """The output of a python process, and the peak memory of its process tree in GiB."""
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
    """Memory of the process tree in bytes."""
    total = 0
    with suppress(psutil.Error):  # a process that has just ended
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
            ours_rates, plain_rates = ([run[column] for run in runs] for runs in zip(*rounds, strict=True))
            ratios = [a / b for a, b in zip(ours_rates, plain_rates, strict=True)]
            medians = f"{statistics.median(ours_rates):8.2f} {statistics.median(plain_rates):8.2f}"
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{model:20} {unit:10} {medians}  {statistics.median(ratios):.2f} ({each})", flush=True)


if __name__ == "__main__":
    main()
