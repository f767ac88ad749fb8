"""Average the weights of checkpoints: `python -m sports_lightning.average 'ckpt_path=[RUN1,RUN2,RUN3]'`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.composed_command import composed_command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_average
from sports_lightning.storage.files import checkpoint_file


def average(cfg: DictConfig, folder: Path) -> None:
    """Average checkpoints as the validation split chooses, and write the result as a run folder of its own.

    The test split is not read: `evaluate ckpt_path=RUN_FOLDER` measures the one that was chosen.

    Raises:
        UserError: no checkpoint, or checkpoints that differ in more than their weights; no images; a wrong
            `data.suspects`.
    """
    check_average(cfg)
    with quick_imports():
        from sports_lightning.average.averaging import average_on, write_average
        from sports_lightning.average.weights import load_alike
        from sports_lightning.evaluate.evaluation import metrics_with_and_without
        from sports_lightning.evaluate.labelled_split import open_split
        from sports_lightning.evaluate.tables import print_metrics, write_tables
        from sports_lightning.runs.provenance import collect_provenance, write_provenance
        from sports_lightning.split.split_file import copy_split_file
        from sports_lightning.storage.files import write_json

    paths = [checkpoint_file(path) for path in cfg.ckpt_path]
    classifiers = load_alike(paths)
    opened = open_split(classifiers[0], paths[0], cfg.data, "val", folder)
    index = opened.index
    averaged = average_on(index, classifiers, cfg.method, cfg.inference)
    provenance = collect_provenance(composed_command(), None, index.provenance(), cfg.inference.accelerator)
    write_average(averaged, paths, folder)
    copy_split_file(paths[0], folder)
    write_tables(averaged.evaluation, folder)
    write_provenance(provenance | {"predictions": "val"}, index.rows(), folder)
    metrics = {"val": metrics_with_and_without(averaged.evaluation, opened.leaks, opened.suspects)}
    write_json(folder / "metrics.json", metrics)  # a run folder with this file is finished
    print_metrics(metrics)


COMMAND = Command("average", average)

if __name__ == "__main__":
    sys.exit(main(COMMAND))
