"""Kill runs at random moments and resume them: do they end with the weights and tables of a run that was left alone?

    python benchmarks/kills.py 100               # SIGKILLs, one process, two data workers
    python benchmarks/kills.py 10 --devices 2    # two processes on the CPU

Every start is the same command with `resume=auto`. Every second kill hits the main process alone, the others all of its
processes at once. Prints what was found and exits with 1 where anything differs or a checkpoint can't be read.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from outcome import outcome

SETTINGS = [
    "data=sample", "data.batch_size=32", "data.num_workers=2", "data.audit=false", "test=false", "seed=3", "logger=csv",
    "model.image_size=32", "+model.arguments.drop_rate=0.2", "augment=strong", "callbacks=[default,ema]",
    "callbacks.last.every_n_steps=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
    "trainer.max_epochs=3", "trainer.limit_train_batches=8", "trainer.limit_val_batches=2",
]  # fmt: skip


def start(folder: Path, devices: int, cwd: Path) -> subprocess.Popen[str]:
    """Start the command that begins the run in `folder` or goes on with it."""
    arguments = [*SETTINGS, f"trainer.devices={devices}", f"hydra.run.dir={folder}", "resume=auto"]
    return subprocess.Popen(
        [sys.executable, "-m", "sports_lightning.train", *arguments],
        cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def where(folder: Path) -> str:
    """How far a killed run has come, from what it has left behind."""
    if (folder / "metrics.json").exists():
        return "after its last file"
    if list(folder.glob("checkpoints/*.partial")):
        return "while a checkpoint was written"
    if not (folder / "checkpoints" / "last.ckpt").exists():
        return "before the first checkpoint"
    progress = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    epoch = progress["epoch_progress"]["current"]
    if epoch["processed"] == 3:
        return "in the evaluation at the end"
    return "between epochs" if epoch["processed"] == epoch["started"] else "within an epoch"


def main() -> int:
    """Run the experiment; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int)
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_args()
    devices = arguments.devices
    draws = random.Random(0)
    moments: Counter[str] = Counter()
    kills = runs = bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        cwd = Path(temporary)
        os.environ["SPORTS_LIGHTNING_CACHE"] = str(cwd / "cache")
        for name in ("warm", "alone"):  # the first one draws the sample
            started = time.monotonic()
            process = start(cwd / name, devices, cwd)
            if process.wait():
                sys.exit(process.stderr.read())  # type: ignore[union-attr]
            seconds = time.monotonic() - started
        expected = outcome(cwd / "alone")
        print(f"a run left alone takes {seconds:.1f} s", flush=True)
        while kills < arguments.kills:
            folder = cwd / f"run{runs}"
            runs += 1
            status = None
            while status is None:
                process = start(folder, devices, cwd)
                try:
                    # One in four at any time, the others once training may have begun.
                    moment = draws.uniform(0 if kills % 4 == 3 else 0.45 * seconds, seconds)
                    _, errors = process.communicate(timeout=None if kills == arguments.kills else moment)
                    status = process.returncode
                except subprocess.TimeoutExpired:
                    kills += 1
                    kill(process, all_at_once=kills % 2 == 0)
                    moments[where(folder)] += 1
                    if (folder / "metrics.json").exists():
                        status, errors = 0, ""
            if status:
                bad += 1
                print(f"run {runs} ended with exit status {status}: {errors}")
            elif outcome(folder) != expected:
                bad += 1
                print(f"run {runs} came out otherwise")
            print(f"{kills} kills, {runs} runs, {bad} of them bad", flush=True)
    for moment, count in moments.most_common():
        print(f"{count:4d} killed {moment}")
    return int(bad > 0)


def kill(process: subprocess.Popen[str], all_at_once: bool) -> None:
    """SIGKILL, to the main process alone or to its whole group."""
    if all_at_once:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    process.stderr.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
