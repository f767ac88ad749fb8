"""Tells a search how a run of its goes, epoch by epoch, and ends the run where the search sees no hope in it."""

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
    """Reports the objective after each validation to the trial that this run is, and asks whether to go on.

    Args:
        folder: the run's.
        sweep: the folder of the search.
        settings: `conf/hydra/sweeper/optuna.yaml`.
        objective: the metric to report.
        number: of the trial.
    """

    def __init__(self, folder: Path, sweep: Path, settings: Any, objective: str, number: int) -> None:
        self.folder, self.sweep, self.settings, self.objective, self.number = folder, sweep, settings, objective, number
        self.trial: Any = None
        self.pruned: dict[str, float] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Whether the run has been given up."""
        return {"pruned": self.pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a run that was interrupted in the epoch that it was given up in."""
        self.pruned = state_dict["pruned"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the trial, in one process."""
        if trainer.is_global_zero:
            from sports_lightning.sweeps.optuna_search import open_trial

            self.trial = open_trial(self.settings, self.sweep, self.number)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and end the run after this epoch where it is hopeless."""
        value = float(trainer.callback_metrics[self.objective])
        hopeless = False
        if self.trial:
            self.trial.report(value, trainer.current_epoch)
            hopeless = self.trial.should_prune()
        if trainer.strategy.reduce_boolean_decision(hopeless, all=False):  # what one knows, all know
            trainer.should_stop = True
            self.pruned = {"epoch": trainer.current_epoch, "value": value}

    def raise_if_pruned(self, trainer: pl.Trainer) -> None:
        """After the fit.

        Raises:
            Pruned: it was ended by the search.
        """
        if self.pruned is None:
            return
        if trainer.is_global_zero:
            write_json(self.folder / PRUNED, self.pruned)
        raise Pruned(f"pruned after epoch {self.pruned['epoch']}: {self.objective} {self.pruned['value']:.4f}")


def reports_to_search() -> ReportToSearch | None:
    """The callback for a run that is a trial of a search with one objective that validation tells; None for others."""
    hydra_cfg, sweep = HydraConfig.get(), current_sweep()
    objectives = [*hydra_cfg.sweeper.get("maximize", []), *hydra_cfg.sweeper.get("minimize", [])]
    if sweep is None or len(objectives) != 1 or objectives[0] not in [f"val/{name}" for name in METRICS]:
        return None
    return ReportToSearch(
        Path(hydra_cfg.runtime.output_dir), sweep, hydra_cfg.sweeper, objectives[0], hydra_cfg.job.num
    )
