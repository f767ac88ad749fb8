"""Decorations of a run of `train`: the plots, the report and the model card, also of a run that finished earlier."""

import json
import logging
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from sports_lightning.data.value_range import value_range_for_checkpoint
from sports_lightning.errors import UserError
from sports_lightning.evaluate.drawings import evaluation_drawings
from sports_lightning.evaluate.evaluation import evaluate_split
from sports_lightning.inference.devices import has_device
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.models.classifier import load_classifier
from sports_lightning.reports import plots
from sports_lightning.reports.decorations import draw_missing
from sports_lightning.runs.layout import check_finished, missing_decorations
from sports_lightning.runs.provenance import read_provenance
from sports_lightning.runs.resume import acquire_lock, load_config
from sports_lightning.split.dataset import open_dataset
from sports_lightning.split.split_file import with_split_of
from sports_lightning.storage.files import DAMAGED, read_csv
from sports_lightning.train.resolved_config import resolve
from sports_lightning.train.results import RunResults, evaluated_images, scan_if_possible
from sports_lightning.train.run_report import write_model_card, write_report

log = logging.getLogger(__name__)


def draw_decorations(results: RunResults) -> list[str]:
    """Draw the decorations that the run folder lacks (see `draw_missing`), and return their names."""
    drawings = {
        **evaluation_drawings(results.evaluation),
        "curves.png": lambda path: plots.curves(results.epochs, path),
        "report.html": lambda path: write_report(results, path),
        "checkpoints/MODEL_CARD.md": lambda path: write_model_card(results, path),
    }
    return draw_missing(drawings, results.folder)


def complete_decorations(folder: Path) -> None:
    """Draw the decorations that the folder of a finished run lacks, and log their names.

    Raises:
        UserError: no finished run of train, or one whose images have changed.
        RunFolderLocked: another process has locked the folder.
    """
    if not missing_decorations(folder):
        log.info("%s is complete: nothing to draw", folder)
        return
    lock = acquire_lock(folder)
    try:
        drawn = draw_decorations(read_results(folder))
    finally:
        lock.release()
    if drawn:
        log.info("drawn: %s", ", ".join(drawn))


def read_results(folder: Path) -> RunResults:
    """The results of a finished run, from its folder; the predictions are computed again.

    Raises:
        UserError: no finished run of train, or one whose images have changed.
    """
    check_finished(folder)
    try:
        provenance = read_provenance(folder)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        epochs = read_csv(folder / "metrics.csv")
        split, recorded = provenance["predictions"], provenance["data"]
        found = {
            "data.root": recorded["root"],
            "data.batch_size": provenance["batch_size"],
            "trainer.precision": provenance["precision"]["precision"],
        }
    except DAMAGED as error:
        raise UserError(f"{folder} is not the complete folder of a finished run of train: {error}") from error
    classifier = load_classifier(folder / "checkpoints" / "best.ckpt")
    found["augment.preprocessing"] = classifier.spec.preprocessing
    cfg = resolve(OmegaConf.create(load_config(folder)), found, folder)
    if not has_device(cfg.inference.accelerator):  # the run was trained on another machine
        cfg.inference.accelerator = "auto"
    splits = [name for name, part in recorded.items() if isinstance(part, dict)]
    choose = partial(value_range_for_checkpoint, classifier.preprocessing.value_range)
    index = open_dataset(with_split_of(folder, cfg.data), splits, classifier.spec.classes, choose)
    evaluated = evaluated_images(index, cfg)
    if evaluated.fingerprint(split) != recorded[split]["fingerprint"]:
        raise UserError(
            f"the {split} images in {index.root} are not those of the run {folder}: restore the images of the run"
        )
    evaluation, _ = halve_batch_on_out_of_memory(
        lambda inference: evaluate_split(classifier, evaluated, split, inference), cfg.inference
    )
    scan = scan_if_possible(index, cfg.data)
    return RunResults(folder, cfg, index, classifier, evaluation, metrics, provenance, epochs, scan)
