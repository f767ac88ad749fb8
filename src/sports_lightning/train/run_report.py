"""`report.html`, all results of a run in one file, and `MODEL_CARD.md` for its best checkpoint."""

import logging
import shlex
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from sports_lightning.audit.findings import collect_findings, summary
from sports_lightning.config.overrides import quote_value
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.evaluate.calibration import reliability
from sports_lightning.evaluate.caveats import describe_caveats
from sports_lightning.evaluate.clustered_intervals import describe_methods
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.intervals import format_metric, metrics_without
from sports_lightning.inference.predictor import evaluation_images
from sports_lightning.reports.decorations import short_reason
from sports_lightning.reports.gradcam import draw_heatmaps
from sports_lightning.reports.html import chart, image_uri, thumbnail_uri, write_page
from sports_lightning.runs.layout import SPLIT_FILE, curve
from sports_lightning.train.results import RunResults

log = logging.getLogger(__name__)

_IMAGES = 24  # mistakes, and as many successes
_HEATMAPS = 8
_TRAINING = 16
_CONFUSED = 20


def write_report(results: RunResults, path: Path) -> None:
    """Write `report.html`: metrics, curves, confusions, images, heat maps, calibration, data and provenance."""
    evaluation = results.evaluation
    bins = reliability(evaluation.confidence.numpy(), evaluation.is_correct.numpy())
    heatmaps, no_heatmaps = _heatmaps(results)
    write_page(
        path,
        "report.html",
        **_shared_values(results),
        audit_command=f"python -m sports_lightning.audit {_data_arguments(results)}",
        charts={
            title: chart({part: curve(results.epochs, f"{part}/{metric}") for part in ("train", "val")})
            for title, metric in (("loss", "loss"), ("accuracy", "acc"))
        },
        calibration=chart(
            {"this model": [(b.confidence, b.accuracy) for b in bins], "calibrated": [(0.0, 0.0), (1.0, 1.0)]}
        ),
        **describe_predictions(evaluation),
        heatmaps=heatmaps,
        no_heatmaps=no_heatmaps,
        training=_training_images(results),
        config=OmegaConf.to_yaml(results.cfg),
    )


def write_model_card(results: RunResults, path: Path) -> None:
    """Write `MODEL_CARD.md`: the architecture, the metrics and the training of the best checkpoint."""
    write_page(path, "MODEL_CARD.md", **_shared_values(results))


def _shared_values(results: RunResults) -> dict[str, Any]:
    """The values that the report and the model card share."""
    cfg, spec = results.cfg, results.classifier.spec
    return {
        "metrics": results.metrics,
        "provenance": results.provenance,
        "split": results.split,
        "methods": describe_methods(results.metrics),
        "shown": format_metric,
        "without": metrics_without,
        "model": cfg.model.name,
        "finetune": cfg.finetune.mode,
        "refit": cfg.refit,
        "classes": results.index.classes,
        "preprocessing": spec.preprocessing,
        "temperature": spec.temperature,
        "caveats": describe_caveats(results.metrics),
        "audit": summary(collect_findings(results.scan)) if results.scan else {},
    }


def _data_arguments(results: RunResults) -> str:
    """The settings with which another command reads the images of the run, in its splits."""
    arguments = ["data=folder", f"data.root={quote_value(results.provenance['data']['root'])}"]
    if (results.folder / SPLIT_FILE).exists():
        arguments.append(f"data.manifest={quote_value(str((results.folder / SPLIT_FILE).absolute()))}")
    return shlex.join(arguments)


def describe_predictions(evaluation: Evaluation) -> dict[str, Any]:
    """The values of the template `predictions.html`, but for `classes`."""
    return {
        "per_class": sorted(evaluation.per_class(), key=lambda row: (row.count == 0, row.f1)),
        "confused": _most_confused(evaluation),
        "cells": [(r, c, int(evaluation.confusion[r, c])) for r, c in evaluation.confusion.nonzero().tolist()],
        "totals": evaluation.confusion.sum(dim=1).clamp(min=1).tolist(),
        "mistakes": _captioned_thumbnails(evaluation, evaluation.most_confident_mistakes(_IMAGES)),
        "successes": _captioned_thumbnails(evaluation, evaluation.least_confident_successes(_IMAGES)),
    }


def _most_confused(evaluation: Evaluation) -> list[tuple[str, str, int, int]]:
    """The most frequent confusions: (label, prediction, times, images of the label)."""
    confused = evaluation.confused
    cells = sorted(confused.nonzero().tolist(), key=lambda cell: -int(confused[cell[0], cell[1]]))[:_CONFUSED]
    names, totals = evaluation.classes, evaluation.confusion.sum(dim=1)
    return [(names[r], names[c], int(confused[r, c]), int(totals[r])) for r, c in cells]


def _captioned_thumbnails(evaluation: Evaluation, positions: list[int]) -> list[tuple[str, str, str]]:
    """(data URI, caption, path) of the images at these positions."""
    paths, value_range = evaluation.split.paths, evaluation.value_range
    return [
        (thumbnail_uri(evaluation.root / paths[i], value_range), evaluation.caption(i), paths[i]) for i in positions
    ]


def _heatmaps(results: RunResults) -> tuple[list[tuple[str, str, str, str]], str]:
    """(data URI of an image, of its heat map, caption, path) of images across the split, or why there are none."""
    evaluation = results.evaluation
    inputs = evaluation_images(results.classifier, evaluation.root, evaluation.split)
    count = min(_HEATMAPS, len(inputs))
    chosen = [i * len(inputs) // count for i in range(count)]
    try:
        images = torch.stack([inputs[i][0] for i in chosen])
        drawn = draw_heatmaps(results.classifier, images, evaluation.predicted[chosen])
    except Exception as error:  # whatever a model's code raises while gradients are computed
        reason = f"Grad-CAM failed on this model: {short_reason(error)}"
        log.warning("no heat maps: %s", reason)
        return [], reason
    if not drawn:
        return [], "this model does not end with feature maps, which Grad-CAM needs"
    return [
        (_uri(image), image_uri(heat), evaluation.caption(i), evaluation.split.paths[i])
        for image, heat, i in zip(images, drawn, chosen, strict=True)
    ], ""


def _training_images(results: RunResults) -> list[str]:
    """Training images of the last epoch as the model saw them, spread over the classes, as data URIs."""
    cfg, index = results.cfg, results.index
    uncached: Any = OmegaConf.merge(cfg.data, {"cache": None})  # for so few images, opening a cache would take longer
    data = SportsDataModule(index, results.classifier.preprocessing, uncached, cfg.augment, cfg.seed)
    epoch, size = int(results.epochs[-1]["epoch"]), len(index.splits["train"])
    count = min(_TRAINING, size)
    return [_uri(data.train_set[epoch, i * size // count, 0][0]) for i in range(count)]


def _uri(image: Tensor) -> str:
    return image_uri(F.to_pil_image(image))
