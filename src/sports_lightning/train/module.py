"""The LightningModule: training step, validation step, optimizer and schedule of a classifier."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytorch_lightning as pl
import timm.scheduler
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn

from sports_lightning.config.rules import limit_of
from sports_lightning.errors import UserError
from sports_lightning.evaluate.metrics import ClassificationMetrics
from sports_lightning.inference.frozen_part import FrozenPart
from sports_lightning.models.classifier import CHECKPOINT_KEY, Classifier
from sports_lightning.models.freezing import set_frozen_to_eval, set_trainable
from sports_lightning.train.optimizer import build_optimizer
from sports_lightning.train.validation_schedule import batches_per_epoch

_TRAIN_METRICS = "train_metrics"


class ClassifierModule(pl.LightningModule):
    """Trains a `Classifier`.

    Args:
        classifier: the model to train.
        loss: function of logits (n, classes) and labels (n,) or target probabilities (n, classes).
        optimizer: `conf/optimizer/*.yaml`.
        scheduler: `conf/scheduler/*.yaml`.
        finetune: `conf/finetune/*.yaml`.
        seed: of the run.

    Attributes:
        loss_is_finite: whether the loss of the last training step was finite.
        continues: whether the run continues another one, of which only weights, optimizer and progress are restored.
        frozen: the part of the model whose outputs are cached; if set, batches hold those outputs instead of images.
    """

    def __init__(
        self,
        classifier: Classifier,
        loss: nn.Module,
        optimizer: DictConfig,
        scheduler: DictConfig,
        finetune: DictConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.classifier = classifier
        self.loss = loss
        self.optimizer_config, self.scheduler_config, self.finetune_config = optimizer, scheduler, finetune
        self.frozen: FrozenPart | None = None
        self.continues = False
        self.loss_is_finite = True
        set_trainable(classifier.net, finetune)
        num_classes = len(classifier.spec.classes)
        self.train_metrics = ClassificationMetrics(num_classes)
        self.val_metrics = ClassificationMetrics(num_classes)

    def train(self, mode: bool = True) -> "ClassifierModule":
        """Like torch's, but frozen parts stay in eval mode."""
        super().train(mode)
        if mode:
            set_frozen_to_eval(self.classifier.net)
        return self

    def on_train_start(self) -> None:
        """Prepare the epoch in which a run resumes, and set the learning rate of a run that continues another one."""
        self.on_train_epoch_start()
        if self.continues:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.optimizer_config.lr
            for scheduler in self.trainer.lr_scheduler_configs:
                self.lr_scheduler_step(scheduler.scheduler, None)

    def on_train_epoch_start(self) -> None:
        """Unfreeze further stages with `finetune=gradual`, and keep frozen parts in eval mode."""
        if self.finetune_config.mode == "gradual":
            set_trainable(self.classifier.net, self.finetune_config, self.current_epoch)
        self.train()  # Lightning does not set the mode itself

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed random layers such as dropout by (seed, epoch, batch, rank), so that a resumed run repeats the draws."""
        key = [
            self.seed,
            self.current_epoch,
            batch_idx,
            self.global_rank,
            1,
        ]  # longer than any key of an image, hence different from all of them
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also queues calls for absent CUDA devices
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).manual_seed(seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, classes) of a batch of images, or of cached outputs of the frozen part."""
        return self.frozen.rest(self.classifier, inputs) if self.frozen else self.classifier(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the training loss, and update the `train/…` metrics."""
        inputs, targets = batch
        logits = self(inputs)
        # For the metrics a mixed image has the label with the larger share.
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        loss = self.loss(logits, targets)
        self.loss_is_finite = bool(loss.isfinite())  # otherwise FiniteLoss ends the run or skips the step
        if self.loss_is_finite:
            self.train_metrics.update(logits.detach(), labels)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the `train/…` metrics of the epoch."""
        self.log_dict({f"train/{name}": value for name, value in self.train_metrics.compute().items()})
        self.train_metrics.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Update the `val/…` metrics."""
        inputs, labels = batch
        self.val_metrics.update(self(inputs), labels)

    def on_validation_epoch_end(self) -> None:
        """Log the `val/…` metrics."""
        for name, value in self.val_metrics.compute().items():
            self.log(f"val/{name}", value, prog_bar=name in ("loss", "acc"))
        self.val_metrics.reset()

    def configure_optimizers(self) -> Any:
        """Create timm's optimizer and schedule by name; the schedule is updated after every optimizer step."""
        config, net = self.optimizer_config, self.classifier.net
        if self.finetune_config.mode == "gradual":  # the optimizer needs all parameters that will be trained
            net.requires_grad_(True)
        optimizer = build_optimizer(net, config)
        set_trainable(net, self.finetune_config, self.current_epoch)

        steps_per_epoch = _steps_per_epoch(self.trainer)
        schedule = self.scheduler_config
        try:
            scheduler, _ = timm.scheduler.create_scheduler_v2(
                optimizer,
                sched=schedule.name,
                num_epochs=_epochs(self.trainer, steps_per_epoch),  # type: ignore[arg-type] # a fraction works too
                warmup_epochs=schedule.warmup_epochs,
                warmup_lr=config.lr * schedule.warmup_start,
                min_lr=config.lr * schedule.final,
                step_on_epochs=False,
                updates_per_epoch=steps_per_epoch,
                **OmegaConf.to_container(schedule.arguments),
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"scheduler={schedule.name} with {dict(schedule.arguments)}: {error}") from error
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Update timm's schedule, which takes the number of the step."""
        scheduler.step_update(num_updates=self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the spec for `load_classifier`, as plain data, and every device's metrics of the epoch so far."""
        checkpoint[CHECKPOINT_KEY] = asdict(self.classifier.spec)
        checkpoint[_TRAIN_METRICS] = {
            name: self._gather(value) for name, value in self.train_metrics.metric_state.items()
        }

    def _gather(self, value: Any) -> Tensor:
        """The values of all devices, (devices, …), on the CPU."""
        gathered: Any = self.all_gather(value)
        return gathered.view(-1, *value.shape).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:  # "train_figures" in version 0.1
        """Restore this device's metrics of the epoch so far; forget tables, schedule and end of a continued run.

        A continued run that averages no weights starts from those that the optimizer has trained, not their average.
        """
        if self.continues:
            checkpoint["callbacks"], checkpoint["lr_schedulers"] = {}, []
            if not any(isinstance(each, WeightAveraging) for each in self.trainer.callbacks):  # type: ignore[attr-defined]
                checkpoint["state_dict"] = checkpoint.get("current_model_state", checkpoint["state_dict"])
        for name, device_values in (checkpoint.get(_TRAIN_METRICS) or checkpoint["train_figures"]).items():
            setattr(self.train_metrics, name, device_values[self.global_rank])


def _steps_per_epoch(trainer: pl.Trainer) -> int:
    """Optimizer steps per epoch. Lightning's `estimated_stepping_batches` would start loading before the resume."""
    batches = batches_per_epoch(trainer)
    return max(1, math.ceil(batches / trainer.accumulate_grad_batches))


def _epochs(trainer: pl.Trainer, steps_per_epoch: int) -> float:
    """The length of the run in epochs, a fraction if `max_steps` ends it; 1 if only `max_time` does."""
    length = min(limit_of(trainer.max_epochs), limit_of(trainer.max_steps) / steps_per_epoch)
    return 1 if length == math.inf else length
