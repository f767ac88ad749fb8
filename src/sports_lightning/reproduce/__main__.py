"""The command `reproduce`: `python -m sports_lightning.reproduce run=RUN_FOLDER`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_reproduce
from sports_lightning.errors import UserError


def reproduce(cfg: DictConfig, folder: Path) -> None:
    """Repeat the training of `run` in `folder/run`, and compare all metrics and weights with the original's.

    Raises:
        UserError: the results differ, or the run can't be repeated.
    """
    check_reproduce(cfg)
    with quick_imports():
        from sports_lightning.reproduce.reproduction import compare_records, read_record, run_again

    original = Path(str(cfg.run)).expanduser().absolute()
    before = read_record(original)
    run_again(original, folder / "run", cfg.changes, cfg.trust)
    outcome = compare_records(before, read_record(folder / "run"))
    if outcome.results:
        causes = outcome.describe_causes() or "none; on a GPU, try +changes.trainer.deterministic=true"
        raise UserError(
            f"not reproduced: {outcome.describe_results()}; recorded differences between the runs: {causes}"
        )
    print(f"reproduced: all {outcome.compared} results are identical to the last digit")
    if outcome.describe_causes():
        print(f"note: these differ but did not change the results: {outcome.describe_causes()}")


COMMAND = Command("reproduce", reproduce, positional="run")

if __name__ == "__main__":
    sys.exit(main(COMMAND))
