"""The command `benchmark`: `python -m sports_lightning.benchmark model=resnet50`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_benchmark


def benchmark(cfg: DictConfig, folder: Path) -> None:
    """Time a few training steps in each precision that is fast on this machine, and write `benchmark.csv`."""
    check_benchmark(cfg)
    from sports_lightning.split.dataset import open_dataset

    index = open_dataset(cfg.data, ["train", "val"], may_cut=True)
    with quick_imports():
        from sports_lightning.benchmark import throughput
        from sports_lightning.train.batch_size import explain_batch_errors

    with explain_batch_errors(cfg.data.batch_size):
        rows = throughput.measure(cfg, index)
    throughput.write(rows, folder / "benchmark.csv")
    throughput.print_table(rows)


COMMAND = Command("benchmark", benchmark)

if __name__ == "__main__":
    sys.exit(main(COMMAND))
