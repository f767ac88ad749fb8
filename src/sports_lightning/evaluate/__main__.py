"""Metrics of a checkpoint on a split: `python -m sports_lightning.evaluate ckpt_path=RUN/checkpoints/best.ckpt`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.composed_command import composed_command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_evaluate


def evaluate(cfg: DictConfig, folder: Path) -> None:
    """Evaluate a checkpoint, which holds its classes, preprocessing and architecture, and write the files of the run.

    The tables and metrics are written before the drawings; a drawing that fails only causes a warning.
    """
    check_evaluate(cfg)
    with quick_imports():
        from sports_lightning.evaluate.arrays import compute_features, write_arrays
        from sports_lightning.evaluate.decisions import decision_metrics
        from sports_lightning.evaluate.drawings import evaluation_drawings
        from sports_lightning.evaluate.evaluation import evaluate_split, metrics_with_and_without
        from sports_lightning.evaluate.labelled_split import open_split
        from sports_lightning.evaluate.tables import print_metrics, write_tables
        from sports_lightning.inference.exported import open_classifier
        from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
        from sports_lightning.inference.precision import choose_for_split
        from sports_lightning.reports.decorations import draw_missing
        from sports_lightning.runs.provenance import collect_provenance, write_provenance
        from sports_lightning.storage.files import write_json

    classifier = open_classifier(str(cfg.ckpt_path))
    classifier.set_crop_mode(cfg.data.crop_mode)
    opened = open_split(classifier, str(cfg.ckpt_path), cfg.data, cfg.split, folder)
    index = opened.index
    inference, precision = choose_for_split(classifier, index.root, index.splits[cfg.split], cfg.inference)
    features = compute_features(classifier, index.root, index.splits[cfg.split], cfg.save, inference)
    evaluation, _ = halve_batch_on_out_of_memory(
        lambda settings: evaluate_split(classifier, index, cfg.split, settings), inference
    )
    metrics = {cfg.split: metrics_with_and_without(evaluation, opened.leaks, opened.suspects)}
    if cfg.split != "val":  # which the decisions were calibrated on
        metrics[cfg.split] |= decision_metrics(classifier, evaluation)
    provenance = collect_provenance(composed_command(), None, index.provenance(), cfg.inference.accelerator)
    write_tables(evaluation, folder)
    write_arrays(folder, evaluation.classes, evaluation.split, cfg.save, evaluation.probabilities, features)
    provenance |= {"predictions": cfg.split} | ({"inference_precision": precision} if precision else {})
    write_provenance(provenance, index.rows(), folder)
    write_json(folder / "metrics.json", metrics)  # a run folder with this file is finished
    print_metrics(metrics)
    draw_missing(evaluation_drawings(evaluation), folder)


COMMAND = Command("evaluate", evaluate)

if __name__ == "__main__":
    sys.exit(main(COMMAND))
