"""Is what is fast by default as accurate as plain float32? Both trained with three seeds.

    python benchmarks/parity.py SPORTS100 EFFICIENTNET_LITE0_WEIGHTS [--epochs 3]

"plain" lays pictures and weights out as torch does by default (NCHW), folds no batch normalisation, and asks for
float32; "fast" is what the command does by itself. For `experiment=head`, which uses what the frozen backbone gives
once, and for the first epochs of `experiment=scratch`. Looks at valid alone.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SEEDS = range(3)


def make_plain() -> None:
    """Take out of this process what makes it fast."""
    from sports_lightning import classifier, frozen, inference

    made = classifier.Classifier.__init__

    def make(self, net, spec):  # type: ignore[no-untyped-def]
        made(self, net, spec)
        self.net.to(memory_format=torch.contiguous_format)

    def unfolded(model):  # type: ignore[no-untyped-def]
        return copy.deepcopy(model).eval()

    classifier.Classifier.__init__ = make  # type: ignore[method-assign]
    classifier.Classifier._normalise = lambda self, images: (images.float() - self.mean) / self.std  # type: ignore
    frozen.folded = inference.folded = unfolded  # type: ignore[assignment]


def child(kind: str, arguments: list[str]) -> None:
    """`train` in this process."""
    if kind == "plain":
        make_plain()
        arguments = [*arguments, "trainer.precision=32-true"]
    from sports_lightning.cli import run_command
    from sports_lightning.train import train

    sys.argv[1:] = arguments
    run_command(train, "train")


def main() -> None:
    """Run the experiment and print its table."""
    if sys.argv[1] == "--child":
        child(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=3, help="of experiment=scratch")
    options = parser.parse_args()
    kinds = {
        "head": ["experiment=head", f"model.weights={options.weights.absolute()}"],
        "scratch": ["experiment=scratch", f"trainer.max_epochs={options.epochs}", "augment.sides=[[0,64]]"],
    }
    common = [f"data.root={options.root.absolute()}", "test=false", "logger=csv", "data.audit=false"]
    with tempfile.TemporaryDirectory() as scratch:
        for experiment, arguments in kinds.items():
            found: dict[str, list[dict[str, float]]] = {"plain": [], "fast": []}
            for seed in SEEDS:
                for kind, figures in found.items():
                    run = f"{experiment}_{kind}_{seed}"
                    these = [*common, *arguments, f"seed={seed}", f"hydra.run.dir={run}"]
                    subprocess.run(
                        [sys.executable, __file__, "--child", kind, *these],
                        cwd=scratch, check=True, stdout=subprocess.DEVNULL,
                        env={**os.environ, "SPORTS_LIGHTNING_CACHE": f"{scratch}/cache_{kind}"},
                    )  # fmt: skip
                    figures.append(json.loads(Path(scratch, run, "metrics.json").read_text())["val"])
            for name in ("acc", "loss"):
                values = {kind: [run[name] for run in runs] for kind, runs in found.items()}
                means = {kind: statistics.mean(each) for kind, each in values.items()}
                error = (sum(statistics.variance(each) for each in values.values()) / len(SEEDS)) ** 0.5
                each = ", ".join(f"{kind} {' '.join(f'{v:.4f}' for v in vs)}" for kind, vs in values.items())
                difference = means["fast"] - means["plain"]
                print(
                    f"{experiment}, {name}: {each}; difference {difference:+.4f}, standard error {error:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
