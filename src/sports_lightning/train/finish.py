"""The end of a training run: first its metrics, then the files and dashboards that show them."""

from pathlib import Path
from typing import Any

import torch

from sports_lightning.audit.scan import DatasetScan
from sports_lightning.evaluate.tables import print_metrics
from sports_lightning.train.dashboards import close_loggers
from sports_lightning.train.decorations import draw_decorations
from sports_lightning.train.fit import FittedRun
from sports_lightning.train.results import RunResults, compute_results, write_results


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
