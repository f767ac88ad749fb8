"""Averages checkpoints on a validation split, and writes the average with a table of what was tried."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.average.candidates import METHODS, Candidate, Shares, choose
from sports_lightning.average.weights import average
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.evaluate.calibration import fit_temperature
from sports_lightning.evaluate.decisions import calibrate_decisions
from sports_lightning.evaluate.evaluation import Evaluation, evaluate_split
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.models.classifier import CHECKPOINT_KEY, Classifier, save_classifier
from sports_lightning.runs.checkpoint_files import save_checkpoint
from sports_lightning.storage.files import write_csv

log = logging.getLogger(__name__)

TABLE = "average.csv"


@dataclass(frozen=True)
class Averaged:
    """An average of checkpoints.

    Attributes:
        classifier: the average that was chosen.
        evaluation: of it, on the validation split.
        candidates: everything that was evaluated, in order.
        chosen: one of them.
    """

    classifier: Classifier
    evaluation: Evaluation
    candidates: list[Candidate]
    chosen: Candidate


def average_on(index: DatasetIndex, classifiers: Sequence[Classifier], method: str, inference: DictConfig) -> Averaged:
    """Choose an average of classifiers on the validation split, and calibrate it there as training does.

    Args:
        index: with the split "val".
        classifiers: as `load_alike` returns them; the first one has the value range of the images.
        method: one of `METHODS`.
        inference: `conf/inference/*.yaml`.
    """

    def evaluate(shares: Shares) -> Evaluation:
        nonlocal inference
        classifier = average(classifiers, shares)
        evaluation, inference = halve_batch_on_out_of_memory(
            lambda settings: evaluate_split(classifier, index, "val", settings), inference
        )
        return evaluation

    candidates = METHODS[method](len(classifiers), evaluate)
    chosen = choose(method, candidates)
    classifier, evaluation = average(classifiers, chosen.shares), chosen.evaluation
    if any(each.spec.temperature != 1.0 for each in classifiers):
        temperature = fit_temperature(evaluation.logits, evaluation.labels)
        classifier.spec = replace(classifier.spec, temperature=temperature)
        evaluation = replace(evaluation, logits=evaluation.logits / temperature)
    calibrate_decisions(classifier, evaluation)
    return Averaged(classifier, evaluation, candidates, chosen)


def write_average(averaged: Averaged, paths: Sequence[Path], folder: Path) -> None:
    """Write `checkpoints/best.ckpt` and `average.csv`: a row per candidate, its share of each checkpoint, its metrics.

    Args:
        averaged: the average.
        paths: of the checkpoints.
        folder: the run folder.
    """
    checkpoint = folder / "checkpoints" / "best.ckpt"
    # Version and callbacks of Lightning are missing: an average has no optimizer that a training could go on with.
    save_checkpoint({CHECKPOINT_KEY: asdict(averaged.classifier.spec), "state_dict": {}}, checkpoint)
    save_classifier(averaged.classifier, checkpoint)
    rows = [[*each.shares, each.acc, each.loss, int(each is averaged.chosen)] for each in averaged.candidates]
    write_csv(folder / TABLE, [*map(str, paths), "val_acc", "val_loss", "chosen"], rows)
    shares = " + ".join(
        f"{share:.3g} of {path}" for share, path in zip(averaged.chosen.shares, paths, strict=True) if share
    )
    log.info("chosen: %s", shares)
