"""What the server says about itself and its classifier."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig
from pydantic import BaseModel, Field

from sports_lightning import __version__
from sports_lightning.evaluate.caveats import describe_caveats
from sports_lightning.evaluate.clustered_intervals import describe_methods
from sports_lightning.evaluate.intervals import format_metric, metrics_without
from sports_lightning.runs.run_of_checkpoint import read_metrics
from sports_lightning.serve.neighbours import NoNeighbours
from sports_lightning.serve.service import Service
from sports_lightning.storage.files import checkpoint_file

_SHOWN = {
    "acc": "accuracy",
    "acc_top5": "top-5 accuracy",
    "f1_macro": "F1, mean over classes",
    "loss": "cross-entropy, nats",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "count": "images",
}


class Info(BaseModel):
    """The classifier and the limits of the server."""

    version: str = Field(description="of sports_lightning")
    architecture: str = Field(description="name in timm")
    fingerprint: str = Field(description="128-bit BLAKE2b digest of the checkpoint file")
    trained_on: str = Field(description="fingerprint of the training images")
    classes: list[str] = Field(description="in the order of the logits")
    preprocessing: dict[str, Any] = Field(description="how an image becomes the input of the network, in timm's terms")
    temperature: float = Field(description="divisor of the logits, fitted on the validation images; 1 without")
    metrics: dict[str, Any] = Field(description="by split, with 95 % intervals in ci95; empty if they are not at hand")
    inference: dict[str, Any] = Field(description="device, precision and batch size, as for predict")
    decisions: dict[str, Any] = Field(description="reject, coverage and conformal, as for predict")
    batch_sizes: list[int] = Field(description="of the forward passes: all give the same bits")
    limits: dict[str, float] = Field(description="of a request, and max_pixels of an image")
    no_neighbours: str = Field(description="why similar training images can't be shown; empty if they can")


def describe_server(service: Service) -> Info:
    """The answer of `/info`."""
    cfg, spec, neighbours = service.cfg, service.classifier.spec, service.neighbours
    return Info(
        version=__version__,
        architecture=spec.architecture,
        fingerprint=_digest(cfg),
        trained_on=spec.trained_on,
        classes=spec.classes,
        preprocessing=spec.preprocessing,
        temperature=spec.temperature,
        metrics={} if cfg.data.crop_mode else read_metrics(cfg.ckpt_path),  # which are those of its own crop
        inference={str(key): value for key, value in cfg.inference.items()},
        decisions=asdict(service.decisions),
        batch_sizes=[size for size in service.network.sizes if size <= service.network.largest],
        limits={**cfg.limits, "max_pixels": cfg.data.max_pixels or 0},
        no_neighbours=neighbours.reason if isinstance(neighbours, NoNeighbours) else "",
    )


def _digest(cfg: DictConfig) -> str:
    with checkpoint_file(cfg.ckpt_path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def page_values(info: Info) -> dict[str, Any]:
    """The values of the template `serve.html`."""
    split = "test" if "test" in info.metrics else "val"
    own: Mapping[str, Any] = info.metrics.get(split, {})
    return {
        "info": info,
        "split": split,
        "columns": [(split, own), *metrics_without(own)] if own else [],
        "rows": _SHOWN,
        "shown": format_metric,
        "methods": describe_methods({split: own}),
        "caveats": describe_caveats({split: own}) if own else [],
    }
