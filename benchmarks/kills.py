"""Kill runs at random moments and resume them: do they end with the weights and tables of an undisturbed run?

    python benchmarks/kills.py 100               # SIGKILLs, one process, two data workers
    python benchmarks/kills.py 10 --devices 2    # two processes on the CPU

Every start is the same command with `resume=auto`. Every second kill hits all processes of the run at once, the
others only the main process. Exits with 1 if a result differs or a checkpoint can't be read.
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
from collections.abc import Callable
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
    """Start the command that starts or resumes the run in `folder`."""
    arguments = [*SETTINGS, f"trainer.devices={devices}", f"hydra.run.dir={folder}", "resume=auto"]
    return subprocess.Popen(
        [sys.executable, "-m", "sports_lightning.train", *arguments],
        cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def where(folder: Path) -> str:
    """At which stage a run was killed, judged by its files."""
    if (folder / "metrics.json").exists():
        return "after its metrics were written"
    if list(folder.glob("checkpoints/*.partial")):
        return "while a checkpoint was written"
    if not (folder / "checkpoints" / "last.ckpt").exists():
        return "before the first checkpoint"
    progress = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    epoch = progress["epoch_progress"]["current"]
    if epoch["processed"] == 3:
        return "in the final evaluation"
    return "between epochs" if epoch["processed"] == epoch["started"] else "within an epoch"


def experiment(cwd: Path, most: int, devices: int, interrupt: Callable[[subprocess.Popen[str], int], None]) -> int:
    """Interrupt and resume runs, print the outcome and return the exit status.

    Args:
        cwd: the folder of the runs, their data and their cache.
        most: how many interruptions.
        devices: processes per run.
        interrupt: ends a run's processes at once; its second argument counts the calls, from 1.
    """
    os.environ["SPORTS_LIGHTNING_CACHE"] = str(cwd / "cache")
    draws = random.Random(0)
    moments: Counter[str] = Counter()
    times = runs = bad = 0
    for name in ("warm", "alone"):  # the first one creates the sample
        started = time.monotonic()
        process = start(cwd / name, devices, cwd)
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(errors)
        seconds = time.monotonic() - started
    expected = outcome(cwd / "alone")
    print(f"an undisturbed run takes {seconds:.1f} s", flush=True)
    while times < most:
        folder = cwd / f"run{runs}"
        runs += 1
        status = None
        while status is None:
            process = start(folder, devices, cwd)
            try:
                # One in four at any time, the others when training may have started.
                moment = draws.uniform(0 if times % 4 == 3 else 0.45 * seconds, seconds)
                _, errors = process.communicate(timeout=None if times == most else moment)
                status = process.returncode
            except subprocess.TimeoutExpired:
                times += 1
                interrupt(process, times)
                process.wait()
                process.stderr.close()  # type: ignore[union-attr]  # a surviving process may keep it open
                try:
                    moments[where(folder)] += 1
                except Exception as error:  # torch raises various errors for a torn checkpoint
                    bad += 1
                    print(f"run {runs}: its checkpoint can't be read: {error}")
                if (folder / "metrics.json").exists():
                    status, errors = 0, ""
        if status:
            bad += 1
            print(f"run {runs} ended with exit status {status}: {errors}")
        elif outcome(folder) != expected:
            bad += 1
            print(f"run {runs} has different results")
        print(f"{times} times, {runs} runs, {bad} bad", flush=True)
    for moment, count in moments.most_common():
        print(f"{count:4d} {moment}")
    return int(bad > 0)


def main() -> int:
    """Run the experiment and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int)
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return experiment(Path(temporary), arguments.kills, arguments.devices, kill)


def kill(process: subprocess.Popen[str], number: int) -> None:
    """Send SIGKILL, in turn to the main process alone and to its whole group."""
    if number % 2 == 0:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
