"""Do the fast options reach the accuracy of float32? Each is trained with the same seeds and compared on valid.

    python benchmarks/parity.py ROOT model=scratch_cnn model.image_size=64 data.cache=disk optimizer=sgd …
    python benchmarks/parity.py ROOT experiment=head model.weights=FILE [--seeds 0,1,2] [--choices compiled …]

ROOT is a dataset of real images. Other arguments are passed to every run. `--choices` selects options, for example to
leave out bf16 where the CPU only emulates it. Prints the validation accuracy and loss of each option, as mean and
standard error over the seeds, and the distance of its mean from float32's in standard errors of the difference. Exits
with 1 if a distance is two or more.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from sports_lightning.compare.significance import mean_and_error

CHOICES = {  # the first one is the reference
    "float32": ["trainer.precision=32-true"],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "compiled": ["trainer.precision=32-true", "model.compile=true"],
    "one process per core": ["trainer.precision=32-true", "trainer.devices=2"],
    "compiled inference": ["trainer.precision=32-true", "inference.compile=true"],
    "bf16 inference": ["trainer.precision=32-true", "inference.precision=bf16-mixed"],
}
SETTINGS = [
    "data=folder", "data.audit=false", "test=false", "logger=csv", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]  # fmt: skip


def train(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Train one run and return its validation metrics."""
    command = [sys.executable, "-m", "sports_lightning.train", *SETTINGS, *arguments, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())["val"]
    return metrics


def main() -> int:
    """Train all runs, print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", default="0,1,2", help="two or more")
    parser.add_argument(
        "--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES), help="in addition to float32"
    )
    options = parser.parse_args()
    overrides = [f"data.root={options.root.absolute()}", *options.overrides]
    is_different = False
    reference: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for choice in dict.fromkeys(["float32", *options.choices]):
            runs = [
                train(Path(temporary, f"{choice} {seed}"), [*overrides, *CHOICES[choice], f"seed={seed}"])
                for seed in options.seeds.split(",")
            ]
            line = f"{choice:18s}"
            for name in ("acc", "loss"):
                mean, error = mean_and_error([run[name] for run in runs])
                other, other_error = reference.setdefault(name, (mean, error))
                spread = math.hypot(error, other_error)
                apart = abs(mean - other) / spread if spread else math.inf if mean != other else 0.0
                is_different |= apart >= 2
                line += f"  {name} {mean:.4f} ± {error:.4f} ({apart:.1f} apart)"
            print(line, flush=True)
    return int(is_different)


if __name__ == "__main__":
    sys.exit(main())
