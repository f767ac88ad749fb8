"""Signals at a chosen training step, for commands that run in this process."""

import os
from signal import Signals
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl


def signal_at_step(number: Signals, step: int) -> Any:
    """Context manager in which a training sends itself a signal once it has taken `step` optimizer steps."""
    fit = pl.Trainer.fit

    def fit_with_signal(trainer: pl.Trainer, *arguments: Any, **options: Any) -> None:
        trainer.callbacks.insert(0, _SignalAtStep(number, step))  # type: ignore[attr-defined]
        fit(trainer, *arguments, **options)

    return patch.object(pl.Trainer, "fit", fit_with_signal)


class _SignalAtStep(pl.Callback):
    def __init__(self, number: Signals, step: int) -> None:
        self.number, self.step, self.is_sent = number, step, False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step and not self.is_sent:
            self.is_sent = True
            os.kill(os.getpid(), self.number)
