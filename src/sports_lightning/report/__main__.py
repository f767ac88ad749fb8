"""Draw the missing plots and pages of a finished run: `python -m sports_lightning.report run=RUN_FOLDER`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_report
from sports_lightning.config.trusted_targets import check_targets, distrust_working_folder
from sports_lightning.runs.layout import check_finished
from sports_lightning.runs.resume import load_config


def report(cfg: DictConfig, folder: Path) -> Path:
    """Draw the decorations that the run folder `run` lacks, into that folder, and return it.

    Raises:
        UserError: no finished run of train, one whose images have changed, or, without `trust`, one whose config could
            run any code.
    """
    check_report(cfg)
    run = Path(str(cfg.run)).expanduser().absolute()
    check_finished(run)
    if not cfg.trust:
        check_targets(load_config(run), f"run={run}")
        distrust_working_folder()
    with quick_imports():
        from sports_lightning.train.decorations import complete_decorations

    complete_decorations(run)
    return run


COMMAND = Command("report", report, positional="run")

if __name__ == "__main__":
    sys.exit(main(COMMAND))
