"""Cut the power at random moments and resume the run: does it end with the weights and tables of an undisturbed one?

    python benchmarks/power_cuts.py LAZYFS [--cuts 30]

LAZYFS is the built program of github.com/dsrhaslab/lazyfs, a user-space file system that keeps writes in its own
memory until fsync is called. A cut kills it and all processes of the run, and loses everything that was not synced.
Renames persist, so a file that was renamed before it was synced is left empty or torn. The run folder, the data and
the cache are on that file system. Needs permission to mount. Exits with 1 if a result differs or a checkpoint can't
be read.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kills import experiment

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
    """A mounted LazyFS whose power can be cut."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder, self.path = program, folder, folder / "disk"
        for name in ("disk", "below"):
            (folder / name).mkdir()
        (folder / "lazyfs.toml").write_text(CONFIG.format(folder=folder))
        self.mount()

    def mount(self) -> None:
        """Mount the file system."""
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
        """Lose everything that was not synced."""
        self.process.kill()
        self.process.wait()
        subprocess.run(["umount", "--lazy", self.path], check=False)


def main() -> int:
    """Run the experiment and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lazyfs", type=Path)
    parser.add_argument("--cuts", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        disk = Disk(arguments.lazyfs, Path(temporary))

        def cut(process: subprocess.Popen[str], _: int) -> None:
            os.killpg(process.pid, signal.SIGKILL)
            disk.cut()
            disk.mount()

        try:
            return experiment(disk.path, arguments.cuts, 1, cut)
        finally:
            disk.cut()


if __name__ == "__main__":
    sys.exit(main())
