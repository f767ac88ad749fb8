"""`report.html`: all that a run has to say in one file; and `MODEL_CARD.md` beside its best checkpoint."""

import shlex
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from sports_lightning.audit.findings import collect_findings, summary
from sports_lightning.audit.scan import DatasetScan
from sports_lightning.config.overrides import quote_value
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.image_folder import DatasetIndex
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.evaluate.calibration import reliability
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.intervals import METHODS, format_metric
from sports_lightning.inference.predictor import evaluation_images
from sports_lightning.models.classifier import Classifier
from sports_lightning.reports.gradcam import heatmaps
from sports_lightning.reports.html import chart, image_uri, thumbnail_uri, write_page
from sports_lightning.runs.layout import curve
from sports_lightning.train.fit import FittedRun

_IMAGES = 24  # mistakes, and as many successes
_HEATMAPS = 8
_TRAINING = 16
_CONFUSED = 20


def write_report(
    cfg: DictConfig,
    run: FittedRun,
    folder: Path,
    classifier: Classifier,
    seen: DatasetScan | None,
    evaluation: Evaluation,
    metrics: dict[str, dict[str, Any]],
    provenance: dict[str, Any],
    epochs: list[dict[str, str]],
) -> None:
    """Write `report.html`, and `MODEL_CARD.md` beside the best checkpoint, from what the run's other files say.

    Args:
        cfg: `conf/train.yaml`.
        run: what was fitted.
        folder: the run's.
        classifier: of the best checkpoint.
        seen: what a look through the data has told, if it was looked at.
        evaluation: of the split that `predictions.csv` is of.
        metrics: of `metrics.json`.
        provenance: of `run.json`.
        epochs: rows of `metrics.csv`.
    """
    index, split = run.index, provenance["predictions"]
    bins = reliability(evaluation.confidence.numpy(), evaluation.is_correct.numpy())
    audit = summary(collect_findings(seen)) if seen else {}
    root = f"data.root={quote_value(provenance['data']['root'])}"
    values = {
        "metrics": metrics, "provenance": provenance, "split": split, "methods": METHODS, "shown": format_metric,
        "model": cfg.model.name, "finetune": cfg.finetune.mode, "refit": cfg.refit, "classes": index.classes,
        "preprocessing": classifier.spec.preprocessing, "temperature": classifier.spec.temperature, "audit": audit,
    }  # fmt: skip
    write_page(
        folder / "report.html",
        "report.html",
        **values,
        audit_command=f"python -m sports_lightning.audit data=folder {shlex.quote(root)}",
        charts={
            title: chart({part: curve(epochs, f"{part}/{metric}") for part in ("train", "val")})
            for title, metric in (("loss", "loss"), ("accuracy", "acc"))
        },
        calibration=chart(
            {"this model": [(b.confidence, b.accuracy) for b in bins], "calibrated": [(0.0, 0.0), (1.0, 1.0)]}
        ),
        per_class=sorted(evaluation.per_class(), key=lambda row: row.f1),
        confused=_confused(evaluation),
        cells=[(r, c, int(evaluation.confusion[r, c])) for r, c in evaluation.confusion.nonzero().tolist()],
        totals=evaluation.confusion.sum(dim=1).clamp(min=1).tolist(),
        mistakes=_captioned_thumbnails(evaluation, evaluation.most_confident_mistakes(_IMAGES)),
        successes=_captioned_thumbnails(evaluation, evaluation.least_confident_successes(_IMAGES)),
        heatmaps=_heatmaps(classifier, index, split, evaluation),
        training=_training_images(cfg, classifier, index, int(epochs[-1]["epoch"])),
        config=OmegaConf.to_yaml(cfg),
    )
    write_page(run.best_checkpoint.with_name("MODEL_CARD.md"), "MODEL_CARD.md", **values)


def _confused(evaluation: Evaluation) -> list[tuple[str, str, int, int]]:
    """The most frequent mistakes: (label, prediction, how often, of how many)."""
    wrong = evaluation.confused
    cells = sorted(wrong.nonzero().tolist(), key=lambda cell: -int(wrong[cell[0], cell[1]]))[:_CONFUSED]
    names, totals = evaluation.classes, evaluation.confusion.sum(dim=1)
    return [(names[r], names[c], int(wrong[r, c]), int(totals[r])) for r, c in cells]


def _captioned_thumbnails(evaluation: Evaluation, positions: list[int]) -> list[tuple[str, str, str]]:
    """(address, caption, path) of some of the images."""
    paths = evaluation.split.paths
    return [(thumbnail_uri(evaluation.root / paths[i]), evaluation.caption(i), paths[i]) for i in positions]


def _heatmaps(
    classifier: Classifier, index: DatasetIndex, split: str, evaluation: Evaluation
) -> list[tuple[str, str, str, str]]:
    """(address of the image, of its heat map, caption, path) of images spread over the split."""
    inputs = evaluation_images(classifier, index.root, index.splits[split])
    count = min(_HEATMAPS, len(inputs))
    chosen = [i * len(inputs) // count for i in range(count)]
    images = torch.stack([inputs[i][0] for i in chosen])
    drawn = heatmaps(classifier, images, evaluation.predicted[chosen])
    return [
        (_uri(image), image_uri(heat), evaluation.caption(i), evaluation.split.paths[i])
        for image, heat, i in zip(images, drawn, chosen, strict=bool(drawn))
    ]


def _training_images(cfg: DictConfig, classifier: Classifier, index: DatasetIndex, epoch: int) -> list[str]:
    """Training images of an epoch as the model saw them, spread over the classes."""
    preprocessing = Preprocessing.from_dict(classifier.spec.preprocessing)
    uncached: Any = OmegaConf.merge(cfg.data, {"cache": None})  # for so few, opening a cache would take longer
    data = SportsDataModule(index, preprocessing, uncached, cfg.augment, cfg.seed)
    size = len(index.splits["train"])
    count = min(_TRAINING, size)
    return [_uri(data.train_set[epoch, i * size // count, 0][0]) for i in range(count)]


def _uri(image: Tensor) -> str:
    return image_uri(F.to_pil_image(image))
