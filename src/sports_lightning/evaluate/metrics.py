"""The metrics that every command reports, under the names that every file and dashboard uses.

All but two follow from the confusion matrix. `loss` is plain cross-entropy in nats, whatever the training loss was.
Macro averages are means over the classes that occur as label or prediction, with 0 where a score is undefined, as in
scikit-learn. A class that a split has no images of counts with 0 if it is predicted, and not at all otherwise.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from sports_lightning.evaluate.intervals import RESAMPLES, TAILS, Interval

_ROWS = 4096  # that are sorted at once
# Apple's GPUs do not support 64-bit floats.
_SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class ClassificationMetrics(Metric):
    """`loss`, `acc`, `acc_top5`, `f1_macro`, `precision_macro` and `recall_macro`, accumulated over batches.

    Args:
        num_classes: columns of the logits.
        sync_on_compute: sum over all processes of a distributed run.
    """

    confusion: Tensor
    top5: Tensor
    loss: Tensor
    full_state_update = False

    def __init__(self, num_classes: int, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("top5", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("loss", torch.tensor(0.0, dtype=_SUM_DTYPE), dist_reduce_fx="sum")
        self.set_dtype(_SUM_DTYPE)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: logits (n, classes) float and labels (n,) int64."""
        self.confusion += confusion_matrix(preds.argmax(dim=1), target, preds.shape[1])
        self.top5 += is_among_best(preds, target, 5).sum()
        self.loss += F.cross_entropy(preds.float(), target, reduction="none").sum(dtype=_SUM_DTYPE)

    def compute(self) -> dict[str, Tensor]:
        """The metrics so far, by name."""
        count = self.confusion.sum()
        present = _present(self.confusion)
        precision, recall, f1 = (scores[present].mean() for scores in class_scores(self.confusion))
        return {
            "loss": self.loss / count,
            "acc": self.confusion.diag().sum().to(_SUM_DTYPE) / count,
            "acc_top5": self.top5.to(_SUM_DTYPE) / count,
            "f1_macro": f1,
            "precision_macro": precision,
            "recall_macro": recall,
        }


def is_among_best(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Whether each label (n,) is among the `count` best classes by scores (n, classes), see `best_classes`."""
    own = scores.gather(1, labels[:, None])
    is_before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & is_before)).sum(dim=1) < count


def best_classes(scores: Tensor, count: int) -> Tensor:
    """The classes (n, count) int64 with the highest scores (n, classes), best first.

    Of equal scores, the first class is the better one, as for `argmax`; `topk` takes any.
    """
    parts = [part.argsort(dim=1, descending=True, stable=True)[:, :count] for part in scores.split(_ROWS)]
    return torch.cat(parts) if parts else torch.empty(0, min(count, scores.shape[1]), dtype=torch.int64)


def compute_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of logits (n, classes) float32 against labels (n,) int64, in this process alone."""
    metric = ClassificationMetrics(logits.shape[1], sync_on_compute=False)
    metric.update(logits, labels)
    return {name: float(value) for name, value in metric.compute().items()}


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(classes, classes) int64 counts; rows are labels, columns predictions. Both arguments are (n,) int64."""
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=labels.device)
    counts.index_add_(0, labels * num_classes + predicted, torch.ones_like(labels))
    return counts.view(num_classes, num_classes)


def class_scores(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of each class, (classes,) each; 0 where the denominator is 0."""
    return _scores(confusion.diag().to(_SUM_DTYPE), confusion.sum(0), confusion.sum(1))


def macro_intervals(confusion: Tensor) -> dict[str, Interval]:
    """95 % intervals of `precision_macro`, `recall_macro` and `f1_macro` by percentile bootstrap; deterministic.

    Images are resampled within each class (stratified), so that every resample has all classes: n - 1 of n images,
    weighted by n / (n - 1), since n of n would give too narrow an interval for small n (Rao and Wu 1988). The metrics
    depend on the confusion matrix only, so a resample of a class is a multinomial draw from its row.

    Args:
        confusion: (classes, classes) int64 counts; rows are labels.

    Returns:
        {metric: (low, high)}; empty where a class has a single image, whose variance is unknown, and without a metric
        that is the same in all resamples, such as 1.0 where all predictions are correct.
    """
    if bool((confusion.sum(1) == 1).any()):
        return {}
    present = _present(confusion).cpu()
    draws = np.random.default_rng(0)
    counts = confusion.cpu().numpy()
    correct = np.zeros((RESAMPLES, len(counts)))
    predicted = np.zeros_like(correct)
    for label, row in enumerate(counts):
        if row.any():
            resampled = draws.multinomial(row.sum() - 1, row / row.sum(), size=RESAMPLES) * row.sum() / (row.sum() - 1)
            predicted += resampled
            correct[:, label] = resampled[:, label]
    scores = _scores(torch.from_numpy(correct), torch.from_numpy(predicted), confusion.cpu().sum(1))
    means = {
        name: class_values[:, present].mean(dim=1).numpy()
        for name, class_values in zip(("precision_macro", "recall_macro", "f1_macro"), scores, strict=True)
    }
    return {name: tuple(np.quantile(values, TAILS).tolist()) for name, values in means.items() if np.ptp(values) > 1e-9}


def _present(confusion: Tensor) -> Tensor:
    return (confusion.sum(0) + confusion.sum(1)) > 0


def _scores(correct: Tensor, predicted: Tensor, actual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        correct / predicted.clamp(min=1),
        correct / actual.clamp(min=1),
        2 * correct / (predicted + actual).clamp(min=1),
    )
