"""Rules on several config keys, and rules that no type expresses. Each has one message with culprit and remedy."""

import math
import re
from typing import Any

from omegaconf import DictConfig, ListConfig

from sports_lightning.config.data_rules import DATA
from sports_lightning.config.rule import Rule


def _are_not_epoch_size_pairs(sizes: Any) -> bool:
    """Whether `augment.progressive_sizes` is anything but a list of [epoch, pixels]."""
    if not isinstance(sizes, ListConfig):
        return sizes is not None
    pairs = [list(pair) if isinstance(pair, ListConfig) else [] for pair in sizes]
    return not all(len(p) == 2 and all(type(n) is int for n in p) and p[0] >= 0 and p[1] >= 1 for p in pairs)


# Schedules that are not laid out over the length of the run.
_WITHOUT_LENGTH = ("constant", "none", "step", "multistep")


def limit_of(count: int | None) -> float:
    """A limit on epochs or steps as a number: infinite for null and -1, Lightning's two spellings of no limit."""
    return math.inf if count is None or count == -1 else count


def _is_unlimited(count: int | None) -> bool:
    return limit_of(count) == math.inf


# The arguments of `timedelta`, which Lightning makes of a mapping.
_UNITS = {"weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_no_duration(time: Any) -> bool:
    is_clock = isinstance(time, str) and re.fullmatch(r"\d+:\d\d:\d\d:\d\d", time)
    is_timedelta = isinstance(time, DictConfig) and set(time) <= _UNITS and all(map(_is_number, time.values()))
    return time is not None and not is_clock and not (is_timedelta and time)


def _is_no_interval(interval: Any) -> bool:
    if interval is None or isinstance(interval, str | DictConfig):  # these have a rule of their own
        return False
    is_count = type(interval) is int and interval >= 1
    return not is_count and not (type(interval) is float and 0 < interval <= 1)


MODEL = (
    Rule(
        ("model.image_size",),
        lambda size: isinstance(size, ListConfig) and len(size) != 2,
        "model.image_size={0} must be a number of pixels, or height and width, as in [224,320]",
    ),
    Rule(
        ("model.arguments.in_chans",),
        lambda channels: channels not in (None, 1, 3),
        "model.arguments.in_chans={0} must be 3 or 1: images are RGB, or converted to gray",
    ),
)

# Arguments of Lightning's Trainer that train does not support, and what to use instead.
_TRAINER = (
    Rule(("trainer.fast_dev_run",), bool, "trainer.fast_dev_run={0} writes no checkpoint: use debug=fast"),
    Rule(
        ("trainer.overfit_batches",),
        bool,
        "trainer.overfit_batches={0} replaces the sampler, and with it exact resumption: use debug=overfit",
    ),
    Rule(
        ("trainer.barebones",),
        bool,
        "trainer.barebones={0} writes no checkpoint: to measure speed, use python -m sports_lightning.benchmark",
    ),
    Rule(
        ("trainer.enable_checkpointing",),
        lambda enabled: enabled is False,
        "trainer.enable_checkpointing={0} leaves nothing to evaluate: leave it out",
    ),
    Rule(
        ("trainer.use_distributed_sampler",),
        bool,
        "trainer.use_distributed_sampler={0} replaces the sampler, which handles several devices itself: leave it out",
    ),
    Rule(
        ("trainer.limit_test_batches",),
        lambda limit: limit == 0,
        "trainer.limit_test_batches={0} leaves nothing to evaluate: to skip the test split, use test=false",
    ),
    Rule(
        ("trainer.limit_predict_batches",),
        lambda limit: limit is not None,
        "trainer.limit_predict_batches={0} has no effect: leave it out",
    ),
    Rule(
        ("trainer.limit_train_batches",),
        lambda limit: limit == 0,
        "trainer.limit_train_batches={0} trains on nothing: set it above 0",
    ),
    Rule(
        ("trainer.limit_val_batches",),
        lambda limit: limit == 0,
        "trainer.limit_val_batches={0} leaves no metric to choose the best checkpoint by: set it above 0",
    ),
    Rule(
        ("trainer.max_epochs",),
        lambda epochs: epochs == 0,
        "trainer.max_epochs={0} trains nothing: set 1 or more, or to evaluate a checkpoint, use python -m "
        "sports_lightning.evaluate",
    ),
    Rule(
        ("trainer.max_steps",),
        lambda steps: steps == 0,
        "trainer.max_steps={0} trains nothing: set 1 or more, or -1 for no limit",
    ),
    Rule(
        ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time"),
        lambda epochs, steps, time: _is_unlimited(epochs) and _is_unlimited(steps) and time is None,
        "trainer.max_epochs={0} trains without end: set trainer.max_epochs, trainer.max_steps or trainer.max_time",
    ),
    Rule(
        ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "scheduler.name"),
        lambda epochs, steps, time, schedule: (
            _is_unlimited(epochs) and _is_unlimited(steps) and time is not None and schedule not in _WITHOUT_LENGTH
        ),
        "trainer.max_epochs={0} leaves open when scheduler.name={3} has to reach its end: set trainer.max_epochs (or "
        "trainer.max_steps) as well as trainer.max_time, or scheduler=constant",
    ),
    Rule(
        ("trainer.max_time",),
        _is_no_duration,
        "trainer.max_time={0} must be DD:HH:MM:SS, such as 00:12:00:00, or {{hours: 12}}",
    ),
    Rule(
        ("trainer.val_check_interval",),
        lambda interval: isinstance(interval, str | DictConfig),
        "trainer.val_check_interval={0} validates by the clock, so that no run could be repeated or resumed exactly: "
        "set a number of batches, or a fraction of an epoch",
    ),
    Rule(
        ("trainer.val_check_interval",),
        _is_no_interval,
        "trainer.val_check_interval={0} must be a number of batches, such as 100, or a fraction of an epoch, such as "
        "0.5",
    ),
)

_FSDP = (
    Rule(
        ("trainer.strategy", "finetune.mode"),
        lambda strategy, mode: strategy == "fsdp" and mode != "full",
        "trainer.strategy=fsdp requires finetune=full: set it, or trainer.strategy=ddp",
    ),
    Rule(
        ("trainer.strategy", "data.batch_size"),
        lambda strategy, batch_size: strategy == "fsdp" and batch_size == "auto",
        "trainer.strategy=fsdp does not support data.batch_size=auto: set a number",
    ),
    Rule(
        ("trainer.strategy", "trainer.sync_batchnorm"),
        lambda strategy, sync: strategy == "fsdp" and sync,
        "trainer.strategy=fsdp does not support trainer.sync_batchnorm: set trainer.strategy=ddp",
    ),
)

IN_STATED_PRECISION = Rule(
    ("inference.precision",),
    lambda precision: precision == "auto",
    "inference.precision={0} is for evaluate and predict: state it here, such as 32-true or bf16-mixed",
)

TRAIN = (
    *DATA,
    *_TRAINER,
    IN_STATED_PRECISION,
    *_FSDP,
    *MODEL,
    Rule(
        ("data.folds", "test"),
        lambda folds, test: folds is not None and test is False,
        "data.folds={0} makes a fold the test split, which test=false leaves out: leave out one of the two",
    ),
    Rule(("seed",), lambda seed: seed is not None and seed >= 2**32, "seed={0} must be below 2**32"),
    Rule(
        ("augment.progressive_sizes",),
        _are_not_epoch_size_pairs,
        "augment.progressive_sizes={0} must be pairs of an epoch and pixels, as in [[0,64],[5,96]]",
    ),
    Rule(
        ("augment.progressive_sizes", "augment.fixed_augmentations"),
        lambda sizes, augmentations: sizes and augmentations is not None,
        "augment.progressive_sizes and augment.fixed_augmentations exclude each other: a fixed augmentation has one "
        "size",
    ),
    Rule(
        ("finetune.mode", "finetune.stages"),
        lambda mode, stages: mode == "last_stages" and stages is None,
        "finetune.mode={0} lacks finetune.stages: choose it with finetune={0}",
    ),
    Rule(
        ("finetune.mode", "finetune.epochs_per_stage"),
        lambda mode, epochs: mode == "gradual" and epochs is None,
        "finetune.mode={0} lacks finetune.epochs_per_stage: choose it with finetune={0}",
    ),
    Rule(
        ("scheduler.name",),
        lambda name: name == "plateau",
        "scheduler.name={0} is not supported, because schedules step with every batch: use cosine, linear, step or "
        "constant",
    ),
    Rule(
        ("scheduler.name", "optimizer.layer_decay"),
        lambda name, decay: name == "none" and decay is not None,
        "optimizer.layer_decay={1} requires a schedule: use scheduler=constant instead of scheduler.name=none",
    ),
)

BENCHMARK = (
    *TRAIN,
    Rule(
        ("ckpt_path",),
        lambda path: path is not None,
        "ckpt_path={0} has no effect on benchmark, which starts from model.weights: leave it out",
    ),
    Rule(
        ("data.batch_size",),
        lambda batch_size: batch_size == "auto",
        "data.batch_size={0} is not supported by benchmark: set a number",
    ),
    Rule(
        ("trainer.strategy",),
        lambda strategy: strategy == "fsdp",
        "trainer.strategy={0} is not supported by benchmark, which uses one device: leave it out",
    ),
    Rule(
        ("trainer.devices", "trainer.num_nodes"),
        lambda devices, nodes: (
            nodes > 1 or (devices > 1 if isinstance(devices, int) else devices != "auto" and len(devices or "") > 1)
        ),
        "trainer.devices={0} trainer.num_nodes={1}: benchmark uses one device, so leave them out and divide "
        "data.batch_size",
    ),
)

AUDIT = (
    *DATA,
    *MODEL,
    IN_STATED_PRECISION,
    Rule(
        ("model.name", "model.pretrained", "model.weights"),
        lambda name, pretrained, weights: name and not pretrained and not weights,
        "audit needs trained weights, and model.name={0} has none: set model.weights=FILE, or choose a pretrained "
        "model",
    ),
)

SEARCH = (
    Rule(
        ("hydra.sweeper.n_trials",),
        lambda trials: type(trials) is not int or trials < 1,
        "hydra.sweeper.n_trials={0} must be a whole number, 1 or more",
    ),
    Rule(
        ("hydra.sweeper.sampler._target_",),
        lambda target: str(target).endswith(("GridSampler", "BruteForceSampler")),
        "a grid needs no search: python -m sports_lightning.train -m KEY=A,B",
    ),
)
