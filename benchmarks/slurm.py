"""Run on a SLURM cluster: two tasks of srun, and a preempted job of a sweep. Are the results those of local runs?

    python benchmarks/slurm.py PARTITION

The nodes must see the working folder. Both runs must end with bit-identical weights and tables to the same command
without SLURM (on processors of one kind). Exits with 1 if they don't.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from outcome import outcome

SETTINGS = [
    "data=sample", "data.batch_size=32", "data.num_workers=0", "data.audit=false", "logger=csv", "model.image_size=64",
    "augment=strong", "callbacks=[default,ema]", "callbacks.last.every_n_steps=5", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "trainer.max_epochs=5",
    "trainer.precision=32-true",
]  # fmt: skip
TRAIN = [sys.executable, "-m", "sports_lightning.train"]


def preempted(partition: str, cwd: Path) -> Path:
    """Run a sweep's job, send it the signal that SLURM sends before a preemption, and return its run folder."""
    launcher = [f"hydra.launcher.partition={partition}", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=4"]
    sweep = subprocess.Popen(
        [*TRAIN, "-m", *SETTINGS, "hydra/launcher=submitit_slurm", *launcher, "hydra.sweep.dir=sweep"], cwd=cwd
    )
    while not (cwd / "sweep/0/metrics.csv").exists():  # an epoch is done
        assert sweep.poll() is None
        time.sleep(0.2)
    (log,) = (cwd / "sweep/.submitit").glob("*/*_log.out")
    subprocess.run(["scancel", "--signal=USR2", log.parent.name.split("_")[0]], check=True)
    assert sweep.wait() == 0
    assert "Requeued job" in log.with_suffix(".err").read_text() + log.read_text(), "the job was not preempted"
    return cwd / "sweep/0"


def main() -> int:
    """Run the experiment and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("partition")
    partition = parser.parse_args().partition
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        cwd = Path(scratch)
        for devices, name in ((1, "one"), (2, "two")):
            arguments = [*SETTINGS, f"trainer.devices={devices}", f"hydra.run.dir={name}"]
            here = ["env", "OMP_NUM_THREADS=1", *TRAIN, *arguments]
            subprocess.run(here, cwd=cwd, check=True)
        srun = ["srun", f"--partition={partition}", "--ntasks=2", "--kill-on-bad-exit"]
        subprocess.run([*srun, *here[:-1], "hydra.run.dir=srun"], cwd=cwd, check=True)
        pairs = {"two tasks": (cwd / "srun", cwd / "two"), "a preempted job": (preempted(partition, cwd), cwd / "one")}
        same = {what: outcome(run) == outcome(expected) for what, (run, expected) in pairs.items()}
    for what, is_same in same.items():
        print(f"{what}: {'bit-identical' if is_same else 'different'}")
    return int(not all(same.values()))


if __name__ == "__main__":
    sys.exit(main())
