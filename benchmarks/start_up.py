"""Start-up time of the commands, relative to the imports that they need.

    python benchmarks/start_up.py [--rounds 5]

Compares `train --help` and `train --cfg job` with `import hydra`, and the end of the first training step of `train
data=sample` (created and scanned before) with importing torch, pytorch_lightning and timm. Wall time of whole
processes in turn, and the medians of the rounds' ratios. Run it on an otherwise idle machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pytorch_lightning.callbacks import Callback

DONE = "the first training step is done"
TRAIN = ["-m", "sports_lightning.train"]


class SayWhen(Callback):
    """Ends the timed process after one training step."""

    def on_train_batch_end(self, *_: object) -> None:
        print(DONE, flush=True)
        os._exit(0)


def seconds(*arguments: str, until: str = "", cwd: str = ".") -> float:
    """Wall time in seconds until a python process ends, or prints a line that starts with `until`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            if until and line.startswith(until):
                return time.perf_counter() - started
        assert process.wait() == 0
        assert not until
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as cwd:
        sample = [*TRAIN, "data=sample", "+callbacks.first._target_=start_up.SayWhen"]
        seconds(*sample, until=DONE, cwd=cwd)
        pairs = {
            "train --help / import hydra": ([*TRAIN, "--help"], "", ["-c", "import hydra"]),
            "train --cfg job / import hydra": ([*TRAIN, "--cfg", "job"], "", ["-c", "import hydra"]),
            "first step / imports": (sample, DONE, ["-c", "import torch, pytorch_lightning, timm"]),
        }
        for name, (ours, until, imports) in pairs.items():
            times = [(seconds(*ours, until=until, cwd=cwd), seconds(*imports, cwd=cwd)) for _ in range(rounds)]
            ratio = statistics.median(a / b for a, b in times)
            ours_median, imports_median = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{name}: {ours_median:.2f} s / {imports_median:.2f} s, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
