"""Callbacks that Lightning has not got."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from sports_lightning.run_folder import write_csv


class EpochTable(Checkpoint):
    """Writes `metrics.csv`, one row an epoch, while the run goes on.

    Columns: `epoch` (from 0), `train/…` and `val/…` figures, `lr` after the epoch's last step, `seconds` of the epoch
    with its validation, and `images_per_second` of its training part.

    It is a `Checkpoint` because Lightning calls those last, after the module has logged the epoch's figures.

    Args:
        path: the file to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, so that a resumed run writes on."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of an interrupted run."""
        self.rows = state_dict["rows"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started, self._images, self._training_seconds = time.perf_counter(), 0, 0.0
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has figures of its own; Lightning keeps an earlier epoch's in place."""
        self._validated = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count pictures; the last batch before validation gives the training time."""
        self._images += len(batch[0]) * trainer.world_size
        self._training_seconds = time.perf_counter() - self._started
        pl_module.log("img/s", self._images / self._training_seconds, prog_bar=True, logger=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the table with the new row (Lightning has validated by now)."""
        wanted = ("train/", "val/") if self._validated else ("train/",)
        figures = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(wanted)}
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                **dict(sorted(figures.items())),
                "lr": max(group["lr"] for group in trainer.optimizers[0].param_groups),
                "seconds": round(time.perf_counter() - self._started, 3),
                "images_per_second": round(self._images / max(self._training_seconds, 1e-9), 2),
            }
        )
        if trainer.is_global_zero:
            header = list(dict.fromkeys(key for row in self.rows for key in row))
            write_csv(self.path, header, [[row.get(key, "") for key in header] for row in self.rows])


def warmed_up_ema(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """An exponential moving average for Lightning's `WeightAveraging`, whose decay rises to `decay` with the steps.

    min(decay, (1 + n) / (10 + n)) after n updates, as TensorFlow's ExponentialMovingAverage and timm's ModelEmaV3 have
    it, so that the untrained weights are forgotten in a short run too.
    """

    def average(averaged: Tensor, current: Tensor, updates: Tensor) -> Tensor:
        share = torch.clamp((1 + updates) / (10 + updates), max=decay)
        return averaged + (current - averaged) * (1 - share)  # which leaves a frozen weight exactly as it is

    return average
