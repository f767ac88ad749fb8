"""Images of a search, drawn by Optuna: its history, which settings matter, and which go together."""

import logging
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.trial import TrialState

log = logging.getLogger(__name__)


def write_plots(study: optuna.Study, folder: Path) -> None:
    """Write `history.png`, `importance.png` and `parallel_coordinates.png`, for several objectives one of each a name.

    `pareto.png` shows what two or three objectives cost each other. Importance is fANOVA's (Hutter et al. 2014).
    """
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as draw

    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(finished) < 2:
        return
    names = study.metric_names or []

    def save(path: Path) -> None:
        figure = plt.gcf()
        figure.set_size_inches(11, 5)
        with matplotlib.rc_context({"text.parse_math": True}):  # of powers of ten; plots.py has switched it off
            figure.savefig(path, dpi=110, bbox_inches="tight")
        plt.close(figure)

    for i, name in enumerate(names):
        suffix = f"_{name.replace('/', '_')}" if len(names) > 1 else ""
        target = (lambda trial, i=i: trial.values[i]) if len(names) > 1 else None
        for kind, plot in (
            ("history", draw.plot_optimization_history),
            ("importance", draw.plot_param_importances),
            ("parallel_coordinates", draw.plot_parallel_coordinate),
        ):
            more: dict[str, Any] = {}
            if kind == "importance":  # whichever way is better
                more = {"evaluator": optuna.importance.FanovaImportanceEvaluator(seed=0)}
            try:
                plot(study, target=target, target_name=name, **more)
            except (RuntimeError, ValueError) as error:  # all trials alike: nothing to draw
                log.info("no %s.png: %s", kind, error)
                continue
            save(folder / f"{kind}{suffix}.png")
    if len(names) in (2, 3):
        draw.plot_pareto_front(study, target_names=names)
        save(folder / "pareto.png")
