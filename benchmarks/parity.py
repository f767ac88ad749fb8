"""Do the fast choices learn what float32 learns? Each is trained with the same seeds, and compared on valid.

    python benchmarks/parity.py ROOT [--seeds 0 1 2] [KEY=VALUE …]

ROOT is a data set of real pictures. What else is given goes to every run. Prints validation accuracy and loss of each
choice, mean and standard error over the seeds, and how many standard errors its mean is from float32's.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REFERENCE = "float32"
CHOICES = {
    REFERENCE: ["trainer.precision=32-true"],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "compiled": ["trainer.precision=32-true", "model.compile=true"],
    "a process a core": ["trainer.precision=32-true", "trainer.devices=2"],
}
SETTINGS = [
    "data=folder", "data.audit=false", "data.cache=disk", "model=scratch_cnn", "model.image_size=64", "optimizer=sgd",
    "test=false", "logger=csv", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
]  # fmt: skip


def train(folder: Path, arguments: list[str]) -> dict[str, float]:
    """The validation figures of one run."""
    command = [sys.executable, "-m", "sports_lightning.train", *SETTINGS, *arguments, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    figures: dict[str, float] = json.loads((folder / "metrics.json").read_text())["val"]
    return figures


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Of the mean: itself and its standard error."""
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def main() -> int:
    """Train all and print the table; 1 where a choice is two standard errors off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, overrides = parser.parse_known_args()
    off = False
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for choice, arguments in CHOICES.items():
            arguments = [f"data.root={options.root.absolute()}", *arguments, *overrides]
            runs = [train(Path(temporary, f"{choice} {seed}"), [*arguments, f"seed={seed}"]) for seed in options.seeds]
            found[choice] = {name: mean_and_error([run[name] for run in runs]) for name in ("acc", "loss")}
            line = f"{choice:18s}"
            for name, (mean, error) in found[choice].items():
                reference, error_of_reference = found[REFERENCE][name]
                apart = abs(mean - reference) / (math.hypot(error, error_of_reference) or 1)
                off |= apart >= 2
                line += f"  {name} {mean:.4f} ± {error:.4f} ({apart:.1f} standard errors apart)"
            print(line, flush=True)
    return int(off)


if __name__ == "__main__":
    sys.exit(main())
