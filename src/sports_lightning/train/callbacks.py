"""Callbacks that Lightning does not provide."""

import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, Timer
from torch import Tensor

from sports_lightning.config.rules import limit_of
from sports_lightning.data.file_hashes import printable
from sports_lightning.data.image_folder import first_five
from sports_lightning.errors import UserError
from sports_lightning.storage.files import write_csv, write_text

log = logging.getLogger(__name__)


class EpochTable(Checkpoint):
    """Writes `metrics.csv` and `timings.csv`, one row per epoch, during the run, and logs each epoch in a line.

    `metrics.csv` holds `epoch` (from 0), `train/…` and `val/…` metrics, and `lr` after the epoch's last step; it is
    identical each time a run is repeated. `timings.csv` holds `epoch`, `seconds` of the epoch with its validation, and
    `images_per_second` of its training part.

    It is a `Checkpoint` because Lightning calls those last, after the module has logged the epoch's metrics.

    Args:
        folder: where to write the tables.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.epochs: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []
        self._begin()

    def _begin(self) -> None:
        self._validation: dict[str, float] = {}
        self._images, self._training_seconds = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """The rows so far and the values of the next one, so that a resumed run continues the tables."""
        return {
            "epochs": self.epochs,
            "timings": self.timings,
            "validation": self._validation,
            "images": self._images,
            "training_seconds": self._training_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of an interrupted run."""
        self.epochs, self.timings = state_dict["epochs"], state_dict["timings"]
        self._validation, self._images = state_dict["validation"], state_dict["images"]
        self._training_seconds = state_dict["training_seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the timer; on resume this may be mid-epoch."""
        self._started = time.perf_counter() - self._training_seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the timer."""
        self._begin()
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images; the last batch before validation gives the training time."""
        self._images += len(batch[0]) * trainer.world_size
        self._training_seconds = time.perf_counter() - self._started
        pl_module.log("img/s", self._images / self._training_seconds, prog_bar=True, logger=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the metrics: in an epoch without validation, Lightning's are those of an earlier epoch."""
        self._validation = _logged_metrics(trainer, "val/")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the tables with the new row (Lightning has validated by now)."""
        epoch = {"epoch": trainer.current_epoch}
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self.epochs.append({**epoch, **_logged_metrics(trainer, "train/"), **self._validation, "lr": rate})
        seconds = round(time.perf_counter() - self._started, 3)
        images_per_second = round(self._images / max(self._training_seconds, 1e-9), 2)
        self.timings.append({**epoch, "seconds": seconds, "images_per_second": images_per_second})
        if trainer.is_global_zero:
            for name, rows in (("metrics.csv", self.epochs), ("timings.csv", self.timings)):
                header = list(dict.fromkeys(key for row in rows for key in row))
                write_csv(self.folder / name, header, [[row.get(key, "") for key in header] for row in rows])
            left = _seconds_left(trainer, statistics.median(row["seconds"] for row in self.timings[-5:]))
            log.info("%s", epoch_line({**self.epochs[-1], **self.timings[-1]}, trainer.max_epochs, left))


def epoch_line(row: Mapping[str, Any], epochs: int | None, seconds_left: float | None) -> str:
    """One line on an epoch, for the log.

    Args:
        row: of `metrics.csv` and `timings.csv`; `val/…` is missing in an epoch without validation.
        epochs: number of epochs of the run; -1 or None: not limited.
        seconds_left: expected time until the last epoch has ended; None if that is not known.
    """
    number = f"epoch {row['epoch'] + 1}{f'/{epochs}' if epochs and epochs > 0 else ''}"
    metrics = [
        f"{split} loss {row[f'{split}/loss']:.4f} acc {row[f'{split}/acc']:.4f}"
        for split in ("train", "val")
        if f"{split}/loss" in row
    ]
    times = [f"{row['images_per_second']:.0f} img/s", f"{row['seconds']:.1f} s"]
    if seconds_left is not None:
        times.append(f"{timedelta(seconds=round(seconds_left))} left")
    return f"{number}: {', '.join([*metrics, *times])}"


def _seconds_left(trainer: pl.Trainer, seconds_per_epoch: float) -> float | None:
    """Expected time until the first limit of the trainer is reached; None without a limit."""
    done, steps = trainer.current_epoch + 1, trainer.global_step
    epochs_left = min(limit_of(trainer.max_epochs) - done, (limit_of(trainer.max_steps) - steps) / max(steps, 1) * done)
    limits = [] if epochs_left == math.inf else [epochs_left * seconds_per_epoch]
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    limits += [remaining for timer in timers if (remaining := timer.time_remaining()) is not None]
    return max(0.0, min(limits)) if limits else None


def _logged_metrics(trainer: pl.Trainer, prefix: str) -> dict[str, float]:
    return {name: float(v) for name, v in sorted(trainer.callback_metrics.items()) if name.startswith(prefix)}


class FiniteLoss(Callback):
    """Stops a training whose loss becomes infinite or NaN, before the weights are updated.

    The files of the batch are listed in `not_finite.txt`.

    Args:
        folder: where that file is written.
        skip: skip the optimizer step instead, with all of its batches where gradients are accumulated, and restore the
            statistics of BatchNorm.
    """

    def __init__(self, folder: str, skip: bool = False) -> None:
        self.path, self.skip = Path(folder) / "not_finite.txt", skip
        self._batch_is_bad = self._step_is_bad = False
        self._buffers: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Keep a copy of the buffers, such as BatchNorm's statistics, which the forward pass updates."""
        if self.skip:
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Check the loss.

        Raises:
            UserError: the loss is not finite.
        """
        is_bad = not pl_module.loss_is_finite
        if trainer.world_size > 1:  # all processes stop, or skip the step, together
            is_bad = trainer.strategy.reduce_boolean_decision(is_bad, all=False)
        if not is_bad:
            return
        self._batch_is_bad = self._step_is_bad = True
        batch_idx, data = trainer.fit_loop.batch_idx, trainer.datamodule  # type: ignore[attr-defined]
        paths = [printable(path) for path in data.train_paths(batch_idx)]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, [] if pl_module.loss_is_finite else paths)
            paths = [path for device_paths in gathered for path in device_paths]
        if not trainer.is_global_zero:  # only the first process reports
            if self.skip:
                return
            sys.exit()
        where = f"epoch {trainer.current_epoch}, batch {batch_idx}"
        message = f"the loss is infinite or not a number in {where}, of {first_five(paths)}"
        write_text(self.path, "\n".join([where, *paths]) + "\n")
        if not self.skip:
            raise UserError(
                f"{message} ({self.path}): try a smaller optimizer.lr or trainer.gradient_clip_val=1.0, or skip "
                f"such batches with callbacks.finite_loss.skip=true"
            )
        log.warning("skipped: %s", message)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the buffers as they were before a skipped batch; the backward pass needs them unchanged."""
        if self._batch_is_bad:
            for name, buffer in pl_module.named_buffers():
                buffer.copy_(self._buffers[name])
        self._batch_is_bad = False

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Skip the step: without gradients an optimizer changes neither weights nor its own state."""
        if self._step_is_bad:
            optimizer.zero_grad(set_to_none=True)
        self._step_is_bad = False


def warmed_up_ema(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """An exponential moving average for Lightning's `WeightAveraging`, whose decay rises to `decay` with the steps.

    The decay is min(decay, (1 + n) / (10 + n)) after n updates, as in TensorFlow's ExponentialMovingAverage and timm's
    ModelEmaV3, so that a short run forgets the untrained weights too.
    """

    def average(averaged: Tensor, current: Tensor, updates: Tensor) -> Tensor:
        share = torch.clamp((1 + updates) / (10 + updates), max=decay)
        return averaged + (current - averaged) * (1 - share)  # leaves a frozen weight exactly unchanged

    return average
