"""Plots of a search, drawn by Optuna: its history, the importance of each setting, and parallel coordinates."""

import logging
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.trial import TrialState

log = logging.getLogger(__name__)


def write_plots(study: optuna.Study, folder: Path) -> None:
    """Write `history.png`, `importance.png` and `parallel_coordinates.png`, one of each per objective.

    `pareto.png` shows the Pareto front of two or three objectives. Importance is fANOVA's (Hutter et al. 2014).
    """
    if len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])) < 2:
        return
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as optuna_plots

    names = study.metric_names or []
    for i, name in enumerate(names):
        suffix = f"_{name.replace('/', '_')}" if len(names) > 1 else ""
        target = (lambda trial, i=i: trial.values[i]) if len(names) > 1 else None
        for kind, plot, options in (
            ("history", optuna_plots.plot_optimization_history, {}),
            ("importance", optuna_plots.plot_param_importances, _fanova()),
            ("parallel_coordinates", optuna_plots.plot_parallel_coordinate, {}),
        ):
            try:
                plot(study, target=target, target_name=name, **options)
            except (RuntimeError, ValueError) as error:  # all trials have the same value: there is nothing to draw
                log.info("no %s.png: %s", kind, error)
                continue
            _save_current_figure(folder / f"{kind}{suffix}.png")
    if len(names) in (2, 3):
        optuna_plots.plot_pareto_front(study, target_names=names)
        _save_current_figure(folder / "pareto.png")


def _fanova() -> dict[str, Any]:
    return {"evaluator": optuna.importance.FanovaImportanceEvaluator(seed=0)}


def _save_current_figure(path: Path) -> None:
    import matplotlib.pyplot as plt

    figure = plt.gcf()
    figure.set_size_inches(11, 5)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
