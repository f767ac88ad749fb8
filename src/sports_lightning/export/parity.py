"""Does an exported file answer as its checkpoint does? Compared on the images of a split."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Column, Table

from sports_lightning.compare.significance import paired_difference
from sports_lightning.data.dataset_index import Split
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.intervals import wilson
from sports_lightning.export.files import ExportedFile, torch_run
from sports_lightning.export.scored_classifier import ScoredClassifier
from sports_lightning.inference.export_info import NETWORK, ExportInfo
from sports_lightning.inference.exported import ExportedModel, Run
from sports_lightning.models.classifier import Classifier

LARGEST_DIFFERENCE = 1e-4  # in probability, of a file in float32
# OpenVINO computes the weights of the resize in float32, others in float64: some pixels are rounded in the other way.
OPENVINO_DIFFERENCE = 5e-3
LARGEST_LOSS = 0.01  # of accuracy, of a quantized file
_SIGNIFICANT = 0.05
_REPEATS = 5


@dataclass(frozen=True)
class Parity:
    """How one exported file compares with its checkpoint.

    Attributes:
        file: its name.
        megabytes: its size, in millions of bytes.
        difference: the largest difference of a probability.
        score_difference: the largest difference of a rejection score; None without scores.
        top1_changes: images whose most probable class is another one.
        accuracy, low, high: its accuracy with a 95 % Wilson interval.
        accuracy_change: its accuracy minus that of the checkpoint.
        p_value: of McNemar's exact test for that.
        latency_ms: median time for one image, in milliseconds.
        images_per_second: for batches.
        speed: images per second over those of the checkpoint in PyTorch, on the same input.
        passes: whether the differences are within the bounds.
    """

    file: str
    megabytes: float
    difference: float
    score_difference: float | None
    top1_changes: int
    accuracy: float
    low: float
    high: float
    accuracy_change: float
    p_value: float
    latency_ms: float
    images_per_second: float
    speed: float
    passes: bool

    @property
    def words(self) -> str:
        """Whether the accuracy differs."""
        return "distinguishable" if self.p_value < _SIGNIFICANT else "not distinguishable"


def compare_file(file: ExportedFile, reference: Evaluation, classifier: Classifier, inference: DictConfig) -> Parity:
    """Compare a file with the answers of its checkpoint.

    Args:
        file: an exported file.
        reference: the checkpoint on the images of a split.
        classifier: the checkpoint.
        inference: `conf/inference/*.yaml`, of which the batch size is used.
    """
    model = file.open()
    probabilities, scores = model.compute(reference.root, reference.split, inference.batch_size)
    predicted = probabilities.argmax(dim=1)
    correct = predicted == reference.labels
    difference = float((probabilities.double() - reference.probabilities).abs().max())
    changes = int((predicted != reference.predicted).sum())
    paired = paired_difference(correct.tolist(), reference.is_correct.tolist())
    score_difference = None
    if scores is not None and classifier.rejection:
        expected = classifier.rejection(reference.logits.double())
        score_difference = float((scores.double() - expected).abs().max())
    is_equal = difference <= (OPENVINO_DIFFERENCE if file.path.suffix == ".xml" else LARGEST_DIFFERENCE)
    passes = paired.difference >= -LARGEST_LOSS if file.is_rounded else is_equal
    low, high = wilson(int(correct.sum()), len(correct))
    accuracy = float(correct.double().mean())
    times = _speed(model, classifier, reference.root, reference.split, inference.batch_size)
    return Parity(
        file.name, file.size / 1e6, difference, score_difference, changes, accuracy, low, high, paired.difference,
        paired.p_value, *times, passes,
    )  # fmt: skip


def _speed(
    model: ExportedModel, classifier: Classifier, root: Path, split: Split, batch_size: int
) -> tuple[float, float, float]:
    """Milliseconds for one image, images per second, and that over PyTorch's rate, measured in turn."""
    batch = next(model.batches(root, split, batch_size))
    reference = _pytorch(classifier, model.info)
    own, other = [], []
    for _ in range(_REPEATS):
        own.append(_seconds(model.run, batch))
        other.append(_seconds(reference, batch))
    single = [_seconds(model.run, batch[:1]) for _ in range(2 * _REPEATS)]
    ratios = [b / a for a, b in zip(own, other, strict=True)]
    return 1000 * statistics.median(single), len(batch) / statistics.median(own), statistics.median(ratios)


def _pytorch(classifier: Classifier, info: ExportInfo) -> Run:
    """The checkpoint in PyTorch on the input that a file takes."""
    network = ScoredClassifier(classifier, any_size=False).eval()
    if info.takes == NETWORK:
        return torch_run(network)
    transform = classifier.preprocessing.transform()

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return network(torch.stack([transform(image) for image in images.permute(0, 3, 1, 2)]))

    return torch_run(run)


def _seconds(run: Run, batch: np.ndarray) -> float:
    started = time.perf_counter()
    run(batch)
    return time.perf_counter() - started


def as_rows(parities: Sequence[Parity]) -> list[dict[str, Any]]:
    """The content of `parity.json` for each file."""
    return [asdict(parity) | {"words": parity.words} for parity in parities]


def print_parity(parities: Sequence[Parity]) -> None:
    """Print one row per file."""
    columns: dict[str, Callable[[Parity], str]] = {
        "file": lambda p: p.file,
        "MB": lambda p: f"{p.megabytes:.1f}",
        "max |Δp|": lambda p: f"{p.difference:.1e}",
        "top-1 changes": lambda p: str(p.top1_changes),
        "accuracy": lambda p: f"{p.accuracy:.4f}",
        "ms": lambda p: f"{p.latency_ms:.1f}",
        "images/s": lambda p: f"{p.images_per_second:.0f}",
        "× PyTorch": lambda p: f"{p.speed:.2f}",
    }
    table = Table(*(Column(name, no_wrap=name in ("file", "max |Δp|", "accuracy")) for name in columns))
    for parity in parities:
        table.add_row(*(cell(parity) for cell in columns.values()))
    console = Console()
    console.print(table)
    for parity in parities:
        if not parity.passes or parity.p_value < _SIGNIFICANT:
            line = f"{parity.file}: accuracy {parity.accuracy_change:+.4f}, {parity.words} (p = {parity.p_value:.3f})"
            console.print(line, soft_wrap=True)
