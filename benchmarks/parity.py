"""Do the fast choices learn what float32 learns? Each is trained with the same seeds, and compared on valid.

    python benchmarks/parity.py ROOT model=scratch_cnn model.image_size=64 data.cache=disk optimizer=sgd …
    python benchmarks/parity.py ROOT experiment=head model.weights=FILE [--seeds 0,1,2] [--choices compiled …]

ROOT is a data set of real images. What else is given goes to every run. `--choices` leaves some out, such as bf16
where the CPU only imitates it. Prints validation accuracy and loss of each choice, mean and standard error over the
seeds, and how far its mean is from float32's, in standard errors of the difference. Exits with 1 where that is two or
more.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from sports_lightning.compare.significance import mean_and_error

CHOICES = {  # the first one is what the others are compared with
    "float32": ["trainer.precision=32-true"],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "compiled": ["trainer.precision=32-true", "model.compile=true"],
    "a process a core": ["trainer.precision=32-true", "trainer.devices=2"],
    "compiled inference": ["trainer.precision=32-true", "inference.compile=true"],
    "bf16 inference": ["trainer.precision=32-true", "inference.precision=bf16-mixed"],
}
SETTINGS = [
    "data=folder", "data.audit=false", "test=false", "logger=csv", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]  # fmt: skip


def train(folder: Path, arguments: list[str]) -> dict[str, float]:
    """The validation metrics of one run."""
    command = [sys.executable, "-m", "sports_lightning.train", *SETTINGS, *arguments, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())["val"]
    return metrics


def main() -> int:
    """Train all and print the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", default="0,1,2", help="two or more")
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES), help="besides float32")
    options = parser.parse_args()
    overrides = [f"data.root={options.root.absolute()}", *options.overrides]
    is_off = False
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
                other, error_of_other = reference.setdefault(name, (mean, error))
                spread = math.hypot(error, error_of_other)
                apart = abs(mean - other) / spread if spread else math.inf if mean != other else 0.0
                is_off |= apart >= 2
                line += f"  {name} {mean:.4f} ± {error:.4f} ({apart:.1f} apart)"
            print(line, flush=True)
    return int(is_off)


if __name__ == "__main__":
    sys.exit(main())
