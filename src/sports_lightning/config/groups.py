"""The type of every key of the config groups. The files in `conf/` hold the defaults and explain the keys.

A key that is not declared here (of a user's own callback, transform or logger) is passed on unchanged.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sports_lightning.config.values import Above, Arguments, AtLeast

Count = Annotated[int, AtLeast(1)]
CountOrZero = Annotated[int, AtLeast(0)]
CountOrUnlimited = Annotated[int, AtLeast(-1)]
Positive = Annotated[float, Above(0)]
PositiveOrZero = Annotated[float, AtLeast(0)]
Share = PositiveOrZero  # see rules


@dataclass
class ManifestColumns:
    """`data.manifest_columns`."""

    image: str
    label: str
    split: str
    group: str


@dataclass
class SplitShares:
    """`data.split`."""

    val: Share
    test: Share | Literal["auto"]
    seed: CountOrZero
    previous: str | None


@dataclass
class Data:
    """`conf/data/*.yaml`."""

    root: str | None
    source: str | None
    name: str | None
    subset: str | None
    revision: str | None
    download: bool
    classes: Literal["top", "leaf"]
    manifest: str | None
    manifest_columns: ManifestColumns
    split: SplitShares
    folds: Annotated[int, AtLeast(2)] | None
    fold: CountOrZero | None
    batch_size: Count | Literal["auto"]
    num_workers: CountOrZero | Literal["auto"]
    balanced_sampling: bool
    reshuffle: bool
    skip_unreadable: bool
    max_pixels: Count | None
    value_range: Literal["auto"] | list[float]  # see rules
    audit: bool
    suspects: str | None
    cache: Literal["ram", "disk"] | None
    cache_dir: str | None


@dataclass
class EvaluatedData(Data):
    """`data` of `conf/evaluate.yaml`."""

    crop_mode: Literal["center", "squash", "border"] | None


@dataclass
class Reading:
    """The part of `conf/data/*.yaml` that `conf/predict.yaml` has: how image files are read."""

    max_pixels: Count | None
    value_range: Literal["auto"] | list[float]  # see rules
    crop_mode: Literal["center", "squash", "border"] | None


@dataclass
class CachedReading(Reading):
    """The part of `conf/data/*.yaml` that `conf/organize.yaml` has."""

    cache_dir: str


@dataclass
class Augment:
    """`conf/augment/*.yaml`."""

    preprocessing: Any
    fixed_augmentations: Count | None
    progressive_sizes: Any  # see rules
    mixup: PositiveOrZero
    cutmix: PositiveOrZero
    transforms: Arguments


@dataclass
class Model:
    """`conf/model/*.yaml`."""

    name: str
    pretrained: bool
    weights: str | None
    image_size: Count | list[Count] | None  # see rules
    crop_mode: Literal["center", "squash", "border"] | None
    arguments: Arguments
    compile: bool


@dataclass
class Finetune:
    """`conf/finetune/*.yaml`."""

    mode: Literal["full", "head", "last_stages", "gradual"]
    stages: CountOrZero
    epochs_per_stage: Count
    cache_limit_gb: PositiveOrZero
    engine: Literal["auto", "torch", "openvino"]


@dataclass
class Loss:
    """`conf/loss/*.yaml`."""

    class_weights: Literal["balanced"] | dict[str, PositiveOrZero] | list[PositiveOrZero] | None
    function: Arguments


@dataclass
class Optimizer:
    """`conf/optimizer/*.yaml`."""

    name: str
    lr: Positive
    weight_decay: PositiveOrZero
    layer_decay: Positive | None
    arguments: Arguments


@dataclass
class Scheduler:
    """`conf/scheduler/*.yaml`."""

    name: str
    warmup_epochs: PositiveOrZero
    warmup_start: PositiveOrZero
    final: PositiveOrZero
    arguments: Arguments


@dataclass
class Trainer:
    """`conf/trainer/*.yaml`: the arguments of `pytorch_lightning.Trainer`, without `callbacks` and `logger`."""

    accelerator: str
    devices: Any
    strategy: Any
    num_nodes: Count
    precision: int | str | None
    max_epochs: CountOrUnlimited | None
    min_epochs: CountOrZero | None
    max_steps: CountOrUnlimited
    min_steps: CountOrZero | None
    max_time: Any
    limit_train_batches: PositiveOrZero | None
    limit_val_batches: PositiveOrZero | None
    limit_test_batches: PositiveOrZero | None
    limit_predict_batches: PositiveOrZero | None
    overfit_batches: PositiveOrZero
    fast_dev_run: bool | int
    val_check_interval: Any
    check_val_every_n_epoch: Count | None
    num_sanity_val_steps: int | None
    log_every_n_steps: CountOrZero | None
    enable_progress_bar: bool | None
    enable_model_summary: bool | None
    enable_checkpointing: bool | None
    enable_autolog_hparams: bool
    model_registry: str | None
    accumulate_grad_batches: Count
    gradient_clip_val: PositiveOrZero | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    deterministic: bool | Literal["warn"] | None
    benchmark: bool | None
    inference_mode: bool
    profiler: Any
    detect_anomaly: bool
    barebones: bool
    sync_batchnorm: bool
    reload_dataloaders_every_n_epochs: CountOrZero
    plugins: Any
    use_distributed_sampler: bool
    default_root_dir: Any


@dataclass
class Monitor:
    """A callback that compares epochs by a metric; its mode follows from the metric (see monitors)."""

    monitor: str | None
    mode: Literal["min", "max"] | None
    patience: CountOrZero
    save_top_k: CountOrUnlimited


@dataclass
class LastCheckpoint:
    """`callbacks.last`."""

    every_n_minutes: Positive | None
    every_n_steps: Count | None


@dataclass
class FiniteLoss:
    """`callbacks.finite_loss`."""

    skip: bool


@dataclass
class Callbacks:
    """`conf/callbacks/*.yaml`."""

    best: Monitor
    early_stopping: Monitor
    last: LastCheckpoint
    finite_loss: FiniteLoss


@dataclass
class WandbLogger:
    """`conf/logger/wandb.yaml`."""

    log_model: bool


@dataclass
class Loggers:
    """`conf/logger/*.yaml`."""

    wandb: WandbLogger


@dataclass
class Inference:
    """`conf/inference/*.yaml`."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
    compile: bool
    flip_tta: bool
    batch_size: Count
    num_workers: CountOrZero | Literal["auto"]


@dataclass
class Video:
    """`video` of `conf/predict.yaml`."""

    every: Positive | Literal["shot"]
    min_segment: PositiveOrZero
    reject: Positive | None
    chapters: bool


@dataclass
class Limits:
    """`limits` of `conf/serve.yaml`."""

    body_mb: Positive
    images: Count
    requests: Count
    seconds: Positive


@dataclass
class Sweep:
    """`conf/sweep/*.yaml`."""

    on_error: Literal["continue", "stop"]
    parallel: Count


# Groups of which every key is declared here: nothing else in them is read or passed on.
CLOSED_GROUPS = (
    Data,
    EvaluatedData,
    Reading,
    CachedReading,
    Augment,
    Model,
    Finetune,
    Loss,
    Optimizer,
    Scheduler,
    Inference,
    Limits,
    Sweep,
    Video,
)
