"""The command `compare`: `python -m sports_lightning.compare outputs/train`."""

import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.config.checks import check_compare


def compare(cfg: DictConfig, folder: Path) -> None:
    """Compare the finished runs at or below the folders `runs`: print tables, write `compare.html` and `.json`."""
    check_compare(cfg)
    from sports_lightning.compare.comparison import compare_runs
    from sports_lightning.compare.run_reader import read_runs
    from sports_lightning.compare.tables import print_comparison, write_comparison

    runs, skipped = read_runs([str(run) for run in (cfg.runs if isinstance(cfg.runs, ListConfig) else [cfg.runs])])
    comparison = compare_runs(runs)
    print_comparison(comparison)
    for run, reason in skipped.items():
        print(f"skipped {run}: {reason}")
    write_comparison(comparison, folder)


COMMAND = Command("compare", compare, positional="runs")

if __name__ == "__main__":
    sys.exit(main(COMMAND))
