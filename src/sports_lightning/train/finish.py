"""The end of a training run: first its metrics, then the files and dashboards that show them."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from sports_lightning.audit.scan import DatasetScan, scan_opened
from sports_lightning.data.image_folder import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.evaluate.tables import print_metrics
from sports_lightning.train.dashboards import close_loggers
from sports_lightning.train.decorations import draw_decorations
from sports_lightning.train.fit import FittedRun
from sports_lightning.train.results import RunResults, compute_results, write_results

log = logging.getLogger(__name__)


def scan_if_possible(index: DatasetIndex, data: DictConfig) -> DatasetScan | None:
    """Scan the images of a run that has been trained (see `scan_opened`); a folder that can't be read costs a warning.

    The scan reads folders that the training does not, such as those of the test split with `test=false`.
    """
    try:
        return scan_opened(index, data)
    except (UserError, OSError) as error:
        log.warning("the images were not audited, so leaks are unknown: %s", error)
        return None


def finish_run(run: FittedRun, scan: DatasetScan | None, provenance: dict[str, Any], folder: Path) -> RunResults:
    """Evaluate the best checkpoint, and write and log the results.

    The run is finished once its metrics are written. A plot, report or dashboard that fails only causes a warning.

    Args:
        run: the fitted run.
        scan: the dataset scan, or None.
        provenance: see `collect_provenance`.
        folder: the run folder.
    """
    torch.set_float32_matmul_precision("highest")  # the metrics do not depend on the precision of the training
    results = compute_results(run, scan, provenance, folder)
    write_results(results)
    print_metrics(results.metrics)
    draw_decorations(results)
    close_loggers(run.loggers, results)
    return results
