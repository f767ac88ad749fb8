"""Fill the disk before each file that a run writes: is it reported, is nothing lost, and does the run resume?

    python benchmarks/full_disk.py [--every 1] [--first 1] [--devices 1]

Needs permission to mount a tmpfs. The disk is filled before the first, second, third … write of a run on the sample.
The run must end with exit status 1, one line and a readable checkpoint (or none yet), or, once its metrics are
written, with a warning. With free space again, it must end with the results of an undisturbed run. Exits with 1 if
anything else happens.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from outcome import outcome
from sports_lightning.cli.app import main as run_command
from sports_lightning.train.__main__ import COMMAND

Start = Callable[[list[str], Path], subprocess.CompletedProcess[str]]

SIZE = 128  # MB
SETTINGS = [
    "data=sample", "data.batch_size=32", "data.num_workers=0", "data.audit=false", "logger=csv", "model.image_size=32",
    "callbacks=[default,ema]", "callbacks.last.every_n_steps=2", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "trainer.max_epochs=2", "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2", "hydra.run.dir=disk/run", "resume=auto",
]  # fmt: skip


def child(number: int, devices: int) -> None:
    """Run `train` in this process, with the disk full from write `number` on."""
    opened, count = Path.open, 0

    def open_counted(path: Path, mode: str = "r", *arguments, **keywords):  # type: ignore[no-untyped-def]
        nonlocal count
        count += path.name.endswith(".partial")
        if path.name.endswith(".partial") and count == number:
            print(f"full before {path.name.rsplit('.', 2)[0]}", flush=True)
            with opened(Path("disk/ballast"), "wb", buffering=0) as ballast:
                try:
                    while ballast.write(b"\0" * 4096):
                        pass
                except OSError:
                    pass
        return opened(path, mode, *arguments, **keywords)

    Path.open = open_counted  # type: ignore[method-assign]
    sys.argv[1:] = [*SETTINGS, f"trainer.devices={devices}"]
    sys.exit(run_command(COMMAND))


def start(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run this script in another process."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=200)


def main(argv: list[str] | None = None, start: Start = start) -> int:
    """Run the experiment and return the exit status."""
    if "LOCAL_RANK" in os.environ:  # another process of a run, whose command line is that of `train`
        sys.exit(run_command(COMMAND))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=1, help="the first write to test")
    parser.add_argument("--every", type=int, default=1, help="test every n-th write")
    parser.add_argument("--devices", type=int, default=1, help="processes per run; the first one writes")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child is not None:
        child(arguments.child, arguments.devices)

    def run(number: int) -> subprocess.CompletedProcess[str]:
        """Run the command with the disk full at that write; 0: never."""
        return start(["--child", str(number), "--devices", str(arguments.devices)], cwd)

    bad, number, expected = 0, arguments.first, None
    with tempfile.TemporaryDirectory() as temporary:
        cwd, disk = Path(temporary), Path(temporary, "disk")
        os.environ["SPORTS_LIGHTNING_CACHE"] = str(cwd / "cache")
        disk.mkdir()
        while True:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(disk)], check=True)
            try:
                if expected is None:
                    assert run(0).returncode == 0
                    expected = outcome(disk / "run")
                    continue
                full = run(number)
                if "full before" not in full.stdout:
                    break  # the run has fewer writes
                where = full.stdout.partition("full before ")[2].splitlines()[0]
                # A run that has its metrics is finished: a decoration that does not fit only causes a warning.
                is_finished = (disk / "run/metrics.json").exists()
                printed = full.stdout if is_finished else full.stderr
                lines = [line for line in printed.splitlines() if "No space left on device" in line]
                is_reported = bool(lines) if is_finished else len(lines) == 1
                is_status = full.returncode == (0 if is_finished else 1)
                problems = [] if is_reported and is_status else [f"not reported in one line: {printed}"]
                for checkpoint in disk.glob("run/checkpoints/*.ckpt"):
                    torch.load(checkpoint, weights_only=True)
                if list(disk.rglob("*.partial")):
                    problems.append("a partial file is left")
                (disk / "ballast").unlink()
                again = None if (disk / "run/metrics.json").exists() else run(0)
                if again and again.returncode:
                    problems.append(f"the run does not resume: {again.stderr}")
                elif outcome(disk / "run") != expected:
                    problems.append("its results differ")
                bad += bool(problems)
                print(f"write {number}, {where}: {'; '.join(problems) or 'nothing lost'}", flush=True)
                number += arguments.every
            finally:
                subprocess.run(["umount", str(disk)], check=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
