"""Pruning: a callback that reports a trial's objective to the search each epoch and stops unpromising trials."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.callbacks import Callback

from sports_lightning.errors import Pruned
from sports_lightning.runs.layout import METRICS, PRUNED
from sports_lightning.storage.files import write_json
from sports_lightning.sweeps.resume import current_sweep


class ReportToSearch(Callback):
    """Reports the objective to this run's trial after each epoch, and stops the run if the pruner says so.

    Of several validations in an epoch, the last one counts.

    Args:
        folder: the run folder.
        sweep: the folder of the search.
        settings: `conf/hydra/sweeper/optuna.yaml`.
        objective: the metric to report, such as "val/acc".
        number: the trial's number.
    """

    def __init__(self, folder: Path, sweep: Path, settings: Any, objective: str, number: int) -> None:
        self.folder, self.sweep, self.settings, self.objective, self.number = folder, sweep, settings, objective, number
        self.trial: Any = None
        self.pruned: dict[str, float] | None = None
        self._is_validated = False  # since the last report

    def state_dict(self) -> dict[str, Any]:
        """The pruner's decision, for a run that is interrupted before it has ended."""
        return {"pruned": self.pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the pruner's decision."""
        self.pruned = state_dict["pruned"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the trial in the main process."""
        if trainer.is_global_zero:
            from sports_lightning.sweeps.study import open_trial

            self.trial = open_trial(self.settings, self.sweep, self.number)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that there is something to report."""
        self._is_validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the objective, and end the run if the trial is pruned."""
        if not self._is_validated:
            return
        self._is_validated = False
        value = float(trainer.callback_metrics[self.objective])
        should_prune = False
        if self.trial:
            self.trial.report(value, trainer.current_epoch)
            should_prune = self.trial.should_prune()
        if trainer.strategy.reduce_boolean_decision(should_prune, all=False):  # only the main process has the trial
            trainer.should_stop = True
            accuracy = float(trainer.callback_metrics["val/acc"])
            self.pruned = {"epoch": trainer.current_epoch, "value": value, "val/acc": accuracy}

    def raise_if_pruned(self, trainer: pl.Trainer) -> None:
        """Called after the fit: write `pruned.json` if the run was pruned.

        Raises:
            Pruned: the search stopped the run.
        """
        if self.pruned is None:
            return
        if trainer.is_global_zero:
            write_json(self.folder / PRUNED, self.pruned)
        raise Pruned(f"pruned after epoch {self.pruned['epoch']}: {self.objective} {self.pruned['value']:.4f}")


def reports_to_search() -> ReportToSearch | None:
    """The callback for a trial of a search with a single objective on val; None for any other run."""
    hydra_cfg, sweep = HydraConfig.get(), current_sweep()
    objectives = [*hydra_cfg.sweeper.get("maximize", []), *hydra_cfg.sweeper.get("minimize", [])]
    if sweep is None or len(objectives) != 1 or objectives[0] not in [f"val/{name}" for name in METRICS]:
        return None
    return ReportToSearch(
        Path(hydra_cfg.runtime.output_dir), sweep, hydra_cfg.sweeper, objectives[0], hydra_cfg.job.num
    )
