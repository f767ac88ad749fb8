"""`last.ckpt`: from it an interrupted run goes on as if nothing had been.

Lightning resumes to the last bit from some of its hooks only (all tried with Lightning 2.6: a checkpoint that is
written just before a validation, at an epoch's start or in the midst of an accumulation makes it leave work out), so
only those are used. For the rest, every random draw is a function of (seed, epoch, image) or of (seed, epoch, batch),
and what is summed up over an epoch is saved with it.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from sports_lightning.errors import UserError
from sports_lightning.runs.checkpoint_files import load_checkpoint
from sports_lightning.runs.process import seconds_since_start
from sports_lightning.runs.provenance import differences, flatten
from sports_lightning.runs.signals import Interrupted, install_handlers, received

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Saves the run after every epoch, every so often within one, and when a signal asks it to end.

    Args:
        path: the file.
        every_n_minutes: how long at most between two.
        every_n_steps: optimiser steps between two, besides.

    Attributes:
        provenance: what the run depends on (see record), saved with it.
    """

    def __init__(self, path: str, every_n_minutes: float | None = None, every_n_steps: int | None = None) -> None:
        self.path = Path(path)
        self.every_n_minutes, self.every_n_steps = every_n_minutes, every_n_steps
        self.provenance: dict[str, Any] = {}
        self.seconds_before = 0.0  # of the processes that were interrupted
        self.interruptions = 0
        self._was_stopped = self._is_stopped = False

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs and Lightning does not save."""
        return {
            "provenance": self.provenance,
            "seconds": self.seconds_before + seconds_since_start(),
            "interruptions": self.interruptions,
            "stopped": self._is_stopped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the interrupted process was."""
        self.seconds_before = state_dict["seconds"]
        self.interruptions = state_dict["interruptions"] + 1
        self._was_stopped = state_dict["stopped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        if not received():
            install_handlers()  # Lightning has put a handler of its own in place, which would stop without saving
        self._saved = time.monotonic()
        # Several processes have to agree: on the CPU, for a GPU would have to wait.
        self._group: Any = torch.distributed.new_group(backend="gloo") if trainer.world_size > 1 else None
        trainer.should_stop = self._was_stopped

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; end where a signal came."""
        every = trainer.val_check_batch or trainer.num_training_batches
        validates_next = trainer.is_last_batch or (batch_idx + 1) % every == 0
        if validates_next or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        due = bool(self.every_n_steps) and trainer.global_step % self.every_n_steps == 0  # type: ignore[operator]
        if self.every_n_minutes is not None:
            due |= time.monotonic() - self._saved >= 60 * self.every_n_minutes
        due, number = self._agreed(due)
        if due or number:
            self._save(trainer)
        if number:
            raise Interrupted(number)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; a signal that has come is acted upon once Lightning has logged the epoch."""
        self._is_stopped = trainer.should_stop
        self._save(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End where a signal came since the last batch."""
        self._end_if_interrupted()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As at an epoch's start."""
        self._end_if_interrupted()

    def _end_if_interrupted(self) -> None:
        _, number = self._agreed(False)
        if number:
            raise Interrupted(number)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = time.monotonic()

    def _agreed(self, due: bool) -> tuple[bool, int]:
        """Whether any process finds it due, and the signal that any has received, or 0."""
        if self._group is None:
            return due, received()
        both = torch.tensor([int(due), received()])
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(both[0]), int(both[1])


@dataclass(frozen=True)
class ResumePoint:
    """What is known of an interrupted run before it goes on.

    Attributes:
        path: its last checkpoint.
        provenance: what it depended on, by dotted keys.
        precision, batch_size: what "auto" came to, or what was asked for.
    """

    path: Path
    provenance: dict[str, Any]
    precision: str
    batch_size: int


def read_resume_point(path: Path) -> ResumePoint:
    """What `last.ckpt` says of the run that wrote it.

    Raises:
        UserError: it is damaged or of another kind.
    """
    checkpoint = load_checkpoint(path, mapped=True)
    try:
        state = checkpoint["callbacks"][LastCheckpoint.__qualname__]
        provenance = flatten(state["provenance"] if "provenance" in state else state["facts"])  # version 0.1
        return ResumePoint(path, provenance, provenance["precision"], provenance["batch_size"])
    except (LookupError, TypeError) as error:
        raise UserError(f"{path} was not written by this version, and training can't go on from it") from error


def check_unchanged(point: ResumePoint, provenance: dict[str, Any]) -> None:
    """See to it that a run goes on with what it began with.

    Raises:
        UserError: other settings, images or devices. Another version of a library is only worth a warning.
    """
    changed = differences(point.provenance, flatten(provenance))
    changed.pop("data.root", None)  # the fingerprints decide, not the place
    if "settings" in changed:
        raise UserError(f"{point.path} was written with other settings: run it with those, or start a new run")
    for name, (before, now) in changed.items():
        if name.startswith(("data", "processes")):
            raise UserError(
                f"{point.path} can't go on: {name} was {before} and is {now}; put it back, or start a new run"
            )
    if changed:
        listed = ", ".join(f"{name} {before} → {now}" for name, (before, now) in changed.items())
        log.warning("not as before the interruption, so the result may not be that of a run without: %s", listed)
