"""Cut the power at random moments and resume the run: does it end with the weights and tables of one left alone?

    python benchmarks/power_cuts.py LAZYFS [--cuts 30]

LAZYFS is the built program of github.com/dsrhaslab/lazyfs, a file system in user space that keeps what is written in
memory of its own until fsync is called for it. A cut kills it and all processes of the run, and with them everything
that was not synced. Renames stand, so that a file that got its name before it was synced is left empty or torn. The run
folder, the data and the cache all lie there. Needs the right to mount. Exits with 1 where anything differs or can't be
read.
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

from kills import start, where
from outcome import outcome

CONFIG = """
[faults]
fifo_path="{folder}/faults"
[cache]
apply_eviction=false
[cache.simple]
custom_size="2GB"
blocks_per_page=1
[filesystem]
log_all_operations=false
logfile="{folder}/log"
"""


class Disk:
    """A mounted LazyFS, whose power can be cut."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder, self.path = program, folder, folder / "disk"
        for name in ("disk", "below"):
            (folder / name).mkdir()
        (folder / "lazyfs.toml").write_text(CONFIG.format(folder=folder))
        self.mount()

    def mount(self) -> None:
        """Switch it on."""
        options = ["-o", "allow_other", "-o", "modules=subdir", "-o", f"subdir={self.folder / 'below'}", "-f"]
        self.process = subprocess.Popen(
            [self.program, self.path, "--config-path", self.folder / "lazyfs.toml", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not self.path.is_mount():
            if self.process.poll() is not None:
                sys.exit(f"{self.program} ended with exit status {self.process.returncode}")
            time.sleep(0.1)

    def cut(self) -> None:
        """Lose what was not synced."""
        self.process.kill()
        self.process.wait()
        subprocess.run(["umount", "--lazy", self.path], check=False)


def main() -> int:
    """Run the experiment; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lazyfs", type=Path)
    parser.add_argument("--cuts", type=int, default=30)
    arguments = parser.parse_args()
    draws = random.Random(0)
    moments: Counter[str] = Counter()
    cuts = runs = bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        disk = Disk(arguments.lazyfs, Path(temporary))
        os.environ["SPORTS_LIGHTNING_CACHE"] = str(disk.path / "cache")
        try:
            for name in ("warm", "alone"):  # the first one draws the sample
                started = time.monotonic()
                process = start(disk.path / name, 1, disk.path)
                _, errors = process.communicate()
                if process.returncode:
                    sys.exit(errors)
                seconds = time.monotonic() - started
            expected = outcome(disk.path / "alone")
            print(f"a run left alone takes {seconds:.1f} s", flush=True)
            while cuts < arguments.cuts:
                folder = disk.path / f"run{runs}"
                runs += 1
                status, starts = None, 0
                while status is None:
                    process, starts, started = start(folder, 1, disk.path), starts + 1, time.monotonic()
                    try:
                        moment = draws.uniform(0.4 * seconds, seconds)
                        _, errors = process.communicate(timeout=None if cuts == arguments.cuts else moment)
                        status = process.returncode
                        if starts == 1:  # other work on the machine may have slowed down those before
                            seconds = time.monotonic() - started
                    except subprocess.TimeoutExpired:
                        cuts += 1
                        os.killpg(process.pid, signal.SIGKILL)
                        disk.cut()
                        process.communicate()
                        disk.mount()
                        try:
                            moments[where(folder)] += 1
                        except Exception as error:  # torch's, of whatever kind, for a checkpoint that is torn
                            bad += 1
                            print(f"run {runs}: its checkpoint can't be read: {error}")
                        if (folder / "metrics.json").exists():
                            status, errors = 0, ""
                if status:
                    bad += 1
                    print(f"run {runs} ended with exit status {status}: {errors}")
                elif outcome(folder) != expected:
                    bad += 1
                    print(f"run {runs} came out otherwise")
                print(f"{cuts} cuts, {runs} runs, {bad} of them bad", flush=True)
        finally:
            disk.cut()
    for moment, count in moments.most_common():
        print(f"{count:4d} cut {moment}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
