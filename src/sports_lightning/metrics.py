"""The figures that every command quotes, under the names that every file and dashboard uses.

`loss` is plain cross-entropy in nats, whatever the model was trained with. Macro averages are scikit-learn's: the mean
over classes, with 0 for a class that is never predicted.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassPrecision, MulticlassRecall


class MeanCrossEntropy(Metric):
    """Mean cross-entropy of logits (n, classes) against labels (n,), in nats; summed in float64."""

    total: Tensor
    count: Tensor
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch."""
        self.total += F.cross_entropy(preds.float(), target, reduction="none").double().sum()
        self.count += target.numel()

    def compute(self) -> Tensor:
        """The mean so far, a float64 scalar."""
        return self.total / self.count


def build_metrics(num_classes: int, prefix: str = "") -> MetricCollection:
    """The six figures of logits (n, classes) float against labels (n,) int64, named as in the files."""
    return MetricCollection(
        {
            "loss": MeanCrossEntropy(),
            "acc": MulticlassAccuracy(num_classes, average="micro"),
            "acc_top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            "f1_macro": MulticlassF1Score(num_classes, average="macro"),
            "precision_macro": MulticlassPrecision(num_classes, average="macro"),
            "recall_macro": MulticlassRecall(num_classes, average="macro"),
        },
        prefix=prefix,
    )


def compute_figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """All figures of logits (n, classes) float32 against labels (n,) int64."""
    metrics = build_metrics(logits.shape[1])
    metrics.update(logits, labels)
    return {name: float(value) for name, value in metrics.compute().items()}
