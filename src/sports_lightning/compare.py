"""Runs side by side: `python -m sports_lightning.compare outputs/train`."""

from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli import run_command
from sports_lightning.config import check_compare


def compare(cfg: DictConfig, folder: Path) -> None:
    """Read the finished runs below the folders of `runs`, print a table, and write `compare.html`."""
    check_compare(cfg)
    from sports_lightning.comparison import compare_runs, print_comparison, read_runs, write_comparison

    runs, unfinished = read_runs([cfg.runs] if isinstance(cfg.runs, str) else cfg.runs)
    comparison = compare_runs(runs)
    print_comparison(comparison)
    for run in unfinished:
        print(f"not finished, left out: {run}")
    write_comparison(comparison, folder)


if __name__ == "__main__":
    run_command(compare, "compare", positional="runs")
