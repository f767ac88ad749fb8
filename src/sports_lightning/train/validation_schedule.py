"""When a run validates: as `trainer.val_check_interval` says, and in any case where it ends.

Lightning has no public interface for this: all uses of its private attributes are in this module.
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from sports_lightning.config.rules import limit_of
from sports_lightning.errors import UserError


def end_each_epoch_once(trainer: pl.Trainer) -> None:
    """With max_steps, Lightning would end an epoch twice if a run resumes between two epochs."""
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


class ValidateAtEnd(Checkpoint):
    """Validates the last weights of a run, wherever in an epoch it ends.

    Otherwise `trainer.max_steps`, or a last batch that is not a multiple of `trainer.val_check_interval`, would leave
    the last weights without a metric, and the best checkpoint could not be theirs.

    It is a `Checkpoint` because Lightning calls those last, after its timer (`trainer.max_time`) has stopped the run.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise UserError if `trainer.val_check_interval` is more than the batches of an epoch."""
        interval, batches = trainer.val_check_interval, batches_per_epoch(trainer)
        if isinstance(interval, int) and trainer.check_val_every_n_epoch is not None and interval > batches:
            raise UserError(
                f"trainer.val_check_interval={interval} is more than the {batches} batches of an epoch: set fewer, or "
                "trainer.check_val_every_n_epoch=null, which counts the batches of all epochs"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let Lightning validate after the last batch of the run."""
        if _ends_here(trainer) and not validates_next(trainer):
            trainer.should_stop = True  # Lightning validates before it stops
            trainer.check_val_every_n_epoch = 1
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None  # the run ends before these


def _ends_here(trainer: pl.Trainer) -> bool:
    if trainer.global_step >= limit_of(trainer.max_steps):
        return True
    if trainer.should_stop and trainer.fit_loop._can_stop_early:
        return True
    return trainer.is_last_batch and trainer.current_epoch + 1 >= limit_of(trainer.max_epochs)


def validates_next(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates after the training batch that has just ended."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def batches_per_epoch(trainer: pl.Trainer) -> int:
    """Training batches per epoch, of each device."""
    batches, limit = len(trainer.datamodule.train_dataloader()), trainer.limit_train_batches  # type: ignore[attr-defined]
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
