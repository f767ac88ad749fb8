"""Compare finished runs. The package itself is callable: `sports_lightning.compare(runs)` of the Python API."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sports_lightning.compare.comparison import Comparison


def compare(runs: Sequence[str | os.PathLike[str]]) -> "Comparison":
    """Compare finished runs: settings that differ, McNemar's exact test on shared images, means over seeds.

    Args:
        runs: runs (see `open_run`), run folders, or folders that hold run folders.

    Returns:
        `runs`, `differing` (settings), `pairings` (paired tests, p values corrected by Holm), `seeds` (mean and
        standard error of runs that differ in their seed only), `not_paired`.

    Raises:
        UserError: a folder that does not exist, or a run that is not finished or cannot be read. Such a run below one
            of the folders is left out, with a warning.
        TypeError: not a sequence.
    """
    from sports_lightning.compare.comparison import compare_runs
    from sports_lightning.compare.run_reader import read_runs
    from sports_lightning.errors import UserError

    if isinstance(runs, str | os.PathLike):
        raise TypeError("pass a sequence of runs, such as [first, second]")
    folders = [Path(run).expanduser().absolute() for run in runs]
    found, skipped = read_runs(folders)
    for folder in folders:
        if folder in skipped:
            raise UserError(f"{folder} cannot be compared: {skipped[folder]}")
    for folder, reason in skipped.items():
        logging.getLogger(__name__).warning("%s is left out: %s", folder, reason)
    return compare_runs(found)


class _CallablePackage(ModuleType):
    """Makes the package callable, because the command and the function of the API have the same name."""

    def __call__(self, runs: Sequence[str | os.PathLike[str]]) -> "Comparison":
        return compare(runs)


sys.modules[__name__].__class__ = _CallablePackage
