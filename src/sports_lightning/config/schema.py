"""The types of each command's config: its groups and its own keys (see `groups`)."""

from dataclasses import dataclass
from typing import Any, Literal

from sports_lightning.config.groups import (
    Augment,
    CachedReading,
    Callbacks,
    Count,
    CountOrZero,
    Data,
    EvaluatedData,
    Finetune,
    Inference,
    Limits,
    Loggers,
    Loss,
    Model,
    Optimizer,
    Positive,
    Reading,
    Scheduler,
    Sweep,
    Trainer,
    Video,
)


@dataclass
class SweepSettings:
    """The part of `conf/train.yaml` that a sweep reads."""

    sweep: Sweep


@dataclass
class Train(SweepSettings):
    """`conf/train.yaml`."""

    data: Data
    augment: Augment
    model: Model
    finetune: Finetune
    loss: Loss
    optimizer: Optimizer
    scheduler: Scheduler
    trainer: Trainer
    callbacks: Callbacks
    logger: Loggers
    inference: Inference
    seed: CountOrZero
    test: bool
    resume: str | None
    ckpt_path: str | None
    refit: Positive | None
    calibrate: bool


@dataclass
class Benchmark(Train):
    """`conf/benchmark.yaml`."""

    steps: Count


Arrays = Literal["probabilities", "features"]


@dataclass
class Evaluate:
    """`conf/evaluate.yaml`."""

    data: EvaluatedData
    inference: Inference
    ckpt_path: str | None
    split: Literal["train", "val", "test"]
    save: list[Arrays]


@dataclass
class Average:
    """`conf/average.yaml`."""

    data: Data
    inference: Inference
    ckpt_path: list[str] | None
    method: Literal["greedy", "uniform", "path"]


@dataclass
class Predict:
    """`conf/predict.yaml`."""

    data: Reading
    inference: Inference
    resume: str | None
    ckpt_path: str | None
    input: list[str] | str | None
    save: list[Arrays]
    video: Video
    reject: Positive | None
    coverage: Positive | None
    conformal: Literal["lac", "aps", "raps"]


@dataclass
class Export:
    """`conf/export.yaml`."""

    data: Data
    inference: Inference
    ckpt_path: str | None
    split: Literal["auto", "train", "val", "test"]
    format: list[Literal["onnx", "torch", "openvino", "timm"]]
    int8: bool
    push: str | None
    allow_difference: bool


@dataclass
class Serve:
    """`conf/serve.yaml`."""

    data: Reading
    inference: Inference
    ckpt_path: str | None
    host: str
    port: CountOrZero
    reject: Positive | None
    coverage: Positive | None
    conformal: Literal["lac", "aps", "raps"]
    limits: Limits


@dataclass
class Organize:
    """`conf/organize.yaml`."""

    data: CachedReading
    inference: Inference
    ckpt_path: str | None
    input: str | None
    to: str | None
    plan: str | None
    undo: str | None
    apply: bool
    mode: Literal["copy", "move", "hardlink", "symlink"]
    pattern: str
    reject: Positive | None
    coverage: Positive | None
    tags: list[Literal["xmp", "csv"]]


@dataclass
class Audit:
    """`conf/audit.yaml`."""

    data: Data
    model: Model
    inference: Inference
    predictions: str | None


@dataclass
class Split:
    """`conf/split.yaml`."""

    data: Data


@dataclass
class Compare:
    """`conf/compare.yaml`."""

    runs: list[str] | str | None


@dataclass
class Report:
    """`conf/report.yaml`."""

    run: str | None
    trust: bool


@dataclass
class Reproduce(Report):
    """`conf/reproduce.yaml`."""

    changes: Any


_SCHEMAS = (
    Train,
    Benchmark,
    Evaluate,
    Average,
    Predict,
    Export,
    Organize,
    Serve,
    Split,
    Audit,
    Compare,
    Reproduce,
    Report,
)
COMMANDS: dict[str, type] = {schema.__name__.lower(): schema for schema in _SCHEMAS}
