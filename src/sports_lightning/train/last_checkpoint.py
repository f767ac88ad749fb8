"""`last.ckpt`: the checkpoint from which an interrupted run resumes with bit-identical results.

Lightning resumes exactly from some of its hooks only. With Lightning 2.6, a checkpoint that is written just before a
validation, at the start of an epoch or during gradient accumulation makes it skip work, so checkpoints are written
elsewhere. Every random draw is a function of (seed, epoch, image) or of (seed, epoch, batch), and the sums over an
epoch are saved in the checkpoint.
"""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Checkpoint

from sports_lightning.config.overrides import path_setting
from sports_lightning.config.rules import limit_of
from sports_lightning.errors import UserError
from sports_lightning.inference.frozen_pass import FrozenPass
from sports_lightning.runs.checkpoint_files import load_checkpoint
from sports_lightning.runs.process import PROCESS_START
from sports_lightning.runs.provenance import differences, flatten
from sports_lightning.runs.resume import LAST_CHECKPOINT
from sports_lightning.runs.signals import Interrupted, install_handlers, received
from sports_lightning.train.precision import standard_name
from sports_lightning.train.validation_schedule import validates_next

log = logging.getLogger(__name__)

_SHARED_BY_CONTINUED = ("data.train", "data.val", "processes", "batch_size")  # provenance of both runs


class LastCheckpoint(Checkpoint):
    """Saves the run after every epoch, at intervals within an epoch, and when a signal requests its end.

    Args:
        path: the file.
        every_n_minutes: longest time between two checkpoints within an epoch; None: no limit.
        every_n_steps: optimizer steps between two checkpoints within an epoch; None: no limit.

    Attributes:
        provenance: everything that the result depends on (see runs.provenance), saved in the checkpoint.
        started: when the run was started or resumed, by `time.monotonic()`.
    """

    def __init__(self, path: str, every_n_minutes: float | None = None, every_n_steps: int | None = None) -> None:
        self.path = Path(path)
        self.every_n_minutes, self.every_n_steps = every_n_minutes, every_n_steps
        self.provenance: dict[str, Any] = {}
        self.started = PROCESS_START
        self.seconds_before = 0.0  # of the processes that were interrupted
        self.interruptions = 0
        self._was_stopped = self._is_stopped = False

    @property
    def folder(self) -> str:
        """The folder of the run's checkpoints, without symbolic links."""
        return os.path.realpath(self.path.parent)

    def state_dict(self) -> dict[str, Any]:
        """The state that Lightning does not save."""
        return {
            "provenance": self.provenance,
            "seconds": self.seconds_before + time.monotonic() - self.started,
            "interruptions": self.interruptions,
            "stopped": self._is_stopped,
            "folder": self.folder,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of the interrupted process."""
        self.seconds_before = state_dict["seconds"]
        self.interruptions = state_dict["interruptions"] + 1
        self._was_stopped = state_dict["stopped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers and start the timer."""
        if not received():
            install_handlers()  # Lightning has installed its own handler, which would stop without saving
        self._saved = time.monotonic()
        # The processes agree by gloo, on the CPU, so that a GPU need not wait.
        self._group: Any = torch.distributed.new_group(backend="gloo") if trainer.world_size > 1 else None
        trainer.should_stop = self._was_stopped

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due; end the run if a signal was received."""
        is_exact = not trainer.is_last_batch and not validates_next(trainer)
        if not is_exact or (batch_idx + 1) % trainer.accumulate_grad_batches:
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
        """Save. A signal ends the run only after Lightning has logged the epoch."""
        self._save(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the run if a signal was received since the last batch."""
        self._end_if_interrupted()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the run if a signal was received since the last batch."""
        self._end_if_interrupted()

    def _end_if_interrupted(self) -> None:
        _, number = self._agreed(False)
        if number:
            raise Interrupted(number)

    def _save(self, trainer: pl.Trainer) -> None:
        self._is_stopped = trainer.should_stop  # within an epoch it may wait for trainer.min_epochs
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = time.monotonic()

    def _agreed(self, due: bool) -> tuple[bool, int]:
        """Whether a checkpoint is due in any process, and the signal that any process has received, or 0."""
        if self._group is None:
            return due, received()
        both = torch.tensor([int(due), received()])
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(both[0]), int(both[1])


@dataclass(frozen=True)
class ResumePoint:
    """The state of an interrupted run in `last.ckpt`.

    Attributes:
        path: the checkpoint.
        provenance: of the run, by dotted keys.
        precision, batch_size: the resolved values of `trainer.precision` and `data.batch_size`.
        frozen_pass: how the outputs of a frozen part were computed, if they are cached.
        epochs: that have ended.
        steps: of the optimizer that have been taken.
        continues: whether the checkpoint is of another run, which the new run continues.
    """

    path: Path
    provenance: dict[str, Any]
    precision: str | None
    frozen_pass: FrozenPass
    batch_size: int
    epochs: int
    steps: int
    continues: bool


def read_resume_point(path: Path, folder: Path) -> ResumePoint:
    """Read the resume point from `last.ckpt`.

    Args:
        path: the checkpoint.
        folder: the run folder.

    Raises:
        UserError: the file is damaged or of another kind.
    """
    try:
        checkpoint = load_checkpoint(path, mapped=True)
    except UserError as error:
        remedy = _remedy_for_damaged(path)
        raise UserError(f"{path} is not a checkpoint or is damaged: no run can resume from it; {remedy}") from error
    try:
        state = checkpoint["callbacks"][LastCheckpoint.__qualname__]
        provenance = flatten(state["provenance"] if "provenance" in state else state["facts"])  # version 0.1
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        progress = (epochs, checkpoint["global_step"])
        continues = path != folder / LAST_CHECKPOINT
        precision = provenance["precision"] = standard_name(provenance["precision"])
        # in earlier versions the same
        frozen = standard_name(provenance.get("frozen_precision")) or precision or "32-true"
        engine = provenance.setdefault("frozen_engine", "torch")
        provenance["frozen_precision"] = frozen
        how, batch_size = FrozenPass(engine, frozen), provenance["batch_size"]
        return ResumePoint(path, provenance, precision, how, batch_size, *progress, continues)
    except (LookupError, TypeError) as error:
        raise UserError(f"{path} was not written by this version, and training cannot resume from it") from error


def _remedy_for_damaged(last: Path) -> str:
    best = last.with_name("best.ckpt")
    if not best.is_file() or not is_zipfile(best):
        return "start a new run"
    return f"to start a new run from its best weights so far: {path_setting('model.weights', best)}"


def check_not_over(point: ResumePoint, trainer: DictConfig) -> None:
    """Raise UserError if a run that continues another one has no epoch or step left (`conf/trainer/*.yaml`)."""
    for name, done in {"epochs": point.epochs, "steps": point.steps}.items() if point.continues else ():
        limit = trainer[f"max_{name}"]
        if done >= limit_of(limit):
            raise UserError(
                f"ckpt_path={point.path} has been trained for {done} {name}, and trainer.max_{name}={limit} counts "
                "them too: set a larger number"
            )


def check_unchanged(point: ResumePoint, provenance: dict[str, Any]) -> None:
    """Check that a run resumes with the settings, images and devices it started with.

    Other versions of libraries, and other differences, are logged as a warning.

    Raises:
        UserError: other settings, images or number of processes.
    """
    changed = differences(point.provenance, flatten(provenance))
    changed.pop("data.root", None)  # the fingerprints identify the images
    if point.continues:
        changed = {name: pair for name, pair in changed.items() if name.startswith(_SHARED_BY_CONTINUED)}
    if "settings" in changed:
        raise UserError(f"{point.path} was written with other settings: run it with those, or start a new run")
    for name, (before, now) in changed.items():
        if name.startswith(("data", "processes", "batch_size")):
            raise UserError(
                f"{point.path} cannot be resumed: {name} was {before} and is {now}; restore it, or start a new run"
            )
    if changed:
        listed = ", ".join(f"{name} {before} → {now}" for name, (before, now) in changed.items())
        log.warning(
            "changed since the interruption, so that the result may differ from that of an uninterrupted run: %s",
            listed,
        )
