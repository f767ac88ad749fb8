"""Runs side by side: `python -m sports_lightning.compare outputs/train`."""

import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.config.checks import check_compare


def compare(cfg: DictConfig, folder: Path) -> None:
    """Read the finished runs below the folders of `runs`, print a table, and write `compare.html`."""
    check_compare(cfg)
    from sports_lightning.compare.comparison import compare_runs, print_comparison, read_runs, write_comparison

    runs, left_out = read_runs([str(run) for run in (cfg.runs if isinstance(cfg.runs, ListConfig) else [cfg.runs])])
    comparison = compare_runs(runs)
    print_comparison(comparison)
    for run, why in left_out.items():
        print(f"left out: {run}: {why}")
    write_comparison(comparison, folder)


COMMAND = Command("compare", compare, positional="runs")

if __name__ == "__main__":
    sys.exit(main(COMMAND))
