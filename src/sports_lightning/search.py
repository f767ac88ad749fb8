"""sweep=optuna: a search over hyper-parameters, each trial a job of the sweep.

Optuna (Akiba et al. 2019, arXiv:1907.10902) draws the settings and remembers the trials, in a database that any number
of processes share; what became of a trial is read from its run folder. A trial whose process was killed goes on, in the
same folder, once somebody takes up the sweep again: which trials those are, locks tell.
"""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from sports_lightning.errors import UserError
from sports_lightning.locks import lock
from sports_lightning.record import differences
from sports_lightning.run_folder import PRUNED, is_finished, write_text
from sports_lightning.search_plots import write_plots
from sports_lightning.sweep import SweepJob, wait_for_one
from sports_lightning.sweep_folder import MULTIRUN

Direction = Literal["maximize", "minimize"]


def search(config: DictConfig, arguments: list[str], loader: ConfigLoader, launcher: Launcher) -> None:
    """Run trials until the study has enough, several at once if `sweep.parallel` says so.

    Args:
        config: the whole, with Hydra's own.
        arguments: overrides, some of them sweeps.
        loader: composes jobs.
        launcher: runs them.

    Raises:
        UserError: settings that cannot work, or a study of something else.
    """
    settings, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir)
    wanted = objectives(settings)
    space, fixed = search_space([*(f"{key}={value}" for key, value in settings.params.items()), *arguments])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MULTIRUN).exists():  # as Hydra's own sweeper does
        write_text(folder / MULTIRUN, OmegaConf.to_yaml(config))
    study = _open_study(settings, space, wanted, folder)
    trials = _Trials(study, space, settings.n_trials, folder)
    jobs: dict[int, SweepJob] = {}
    while True:
        while len(jobs) < config.sweep.parallel and (chosen := trials.next()):
            number, params = chosen
            overrides = [*fixed, *(f"{key}={value}" for key, value in params.items())]
            loader.load_sweep_config(config, overrides)  # raises what is wrong with them
            jobs[number] = launcher.launch([overrides], initial_job_idx=number)[0].return_value
        if not jobs:
            break
        wait_for_one(list(jobs.values()))
        for number in [number for number, job in jobs.items() if not job.is_running()]:
            if not trials.tell(number, jobs.pop(number)):
                return  # no more are to be started
    write_plots(study, folder)


def search_space(arguments: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched, {key: distribution}, and the overrides that all trials have.

    `key=interval(a,b)` is a number in between (`int(…)` a whole one, `tag(log,…)` on a logarithmic scale),
    `key=range(a,b)` a whole number, `key=a,b,…` one of these; a later one replaces an earlier one.

    Raises:
        UserError: nothing is searched.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise UserError(
            "the search has nothing to choose: add what, such as 'optimizer.lr=tag(log,interval(1e-4,0.1))'"
        )
    return space, list(fixed.values())


def _distribution(override: Override) -> BaseDistribution:
    value: Any = override.value()
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep) and all(isinstance(n, int) for n in (value.start, value.stop, value.step)):
        values = sorted(value.range())
        return IntDistribution(values[0], values[-1], step=abs(value.step))  # type: ignore[arg-type]
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def objectives(settings: DictConfig) -> dict[str, Direction]:
    """{figure: "maximize" or "minimize"} of `conf/hydra/sweeper/optuna.yaml`.

    Raises:
        UserError: there is none, or one on the test split.
    """
    chosen = dict.fromkeys(settings.maximize, "maximize") | dict.fromkeys(settings.minimize, "minimize")
    if not chosen:
        raise UserError("the search has no objective: hydra.sweeper.maximize=[val/acc], or minimize")
    on_test = [name for name in chosen if name.startswith("test/")]
    if on_test:
        raise UserError(f"{on_test[0]} can't be an objective: valid chooses, test is looked at once; take val/…")
    return chosen  # type: ignore[return-value]


def _open_study(
    settings: DictConfig, space: dict[str, BaseDistribution], directions: dict[str, Direction], folder: Path
) -> optuna.Study:
    """The study, a new one or one that was begun with the same search space and objectives."""
    _quiet()
    storage = _storage(settings, folder)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=settings.study,
            directions=list(directions.values()),
            load_if_exists=True,
        )
    except (ValueError, ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"hydra.sweeper.storage={storage} with study {settings.study}: {why}") from error
    searched = {key: optuna.distributions.distribution_to_json(distribution) for key, distribution in space.items()}
    wanted = {**searched, **directions}
    known = study.user_attrs.get("searches")
    if known is None and not study.trials:
        study.set_user_attr("searches", wanted)
        study.set_metric_names(list(directions))
    elif known != wanted:
        other = differences(known or {}, wanted)
        raise UserError(
            f"the study {settings.study} in {storage} searches something else ({', '.join(other)}): choose "
            f"another hydra.sweeper.study=NAME"
        )
    # Each process draws otherwise, also one that takes up the study again.
    study.sampler = instantiate(settings.sampler, seed=settings.seed + len(study.trials))
    return study


def open_trial(settings: DictConfig, folder: Path, number: int) -> "optuna.Trial":
    """The trial of a study that is under way, for reports from within its job."""
    _quiet()
    study = optuna.load_study(
        study_name=settings.study, storage=_storage(settings, folder), pruner=instantiate(settings.pruner)
    )
    return optuna.Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def _storage(settings: DictConfig, folder: Path) -> str:
    return settings.storage or f"sqlite:///{folder.absolute() / 'study.db'}"


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class _Trials:
    """Hands out the trials of a study, each to one process, and tells the study what became of them."""

    def __init__(self, study: optuna.Study, space: dict[str, BaseDistribution], wanted: int, folder: Path) -> None:
        self.study, self.space, self.wanted, self.folder = study, space, wanted, folder
        self._held: dict[int, int] = {}  # locks

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """(number, params) of a trial that a killed process has left, or of a new one; None if there are enough."""
        choosing = lock(self.folder / ".search", wait=True)
        assert choosing is not None
        try:
            begun = 0
            for trial in self.study.get_trials(deepcopy=False):
                is_whole = trial.params.keys() == self.space.keys()  # else killed while it was drawn
                begun += is_whole
                if trial.state == TrialState.RUNNING and trial.number not in self._held and self._take(trial.number):
                    if is_whole:
                        return trial.number, trial.params
                    self.study.tell(trial.number, state=TrialState.FAIL)
            if begun >= self.wanted:
                return None
            new = self.study.ask(self.space)
            self._take(new.number)
            return new.number, new.params
        finally:
            os.close(choosing)

    def _take(self, number: int) -> bool:
        held = lock(self.folder / f".trial-{number}")
        if held is not None:
            self._held[number] = held
        return held is not None

    def tell(self, number: int, job: SweepJob) -> bool:
        """Tell the study how a job ended; return whether another one may be started."""
        if job.status is None:
            return False
        if is_finished(job.folder):
            values = [objective(job.folder, name) for name in self.study.metric_names or []]
            self.study.tell(number, values)
        else:
            pruned = (job.folder / PRUNED).exists()
            self.study.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        return True


def objective(folder: Path, name: str) -> float:
    """A figure of a finished run: `val/…` of `metrics.json`, or a number of `run.json`, such as `latency_ms`.

    Raises:
        UserError: it has none of that name.
    """
    split, _, figure = name.rpartition("/")
    found = json.loads((folder / ("metrics.json" if split else "run.json")).read_text(encoding="utf-8"))
    value = found.get(split, {}).get(figure) if split else found.get(figure)
    if not isinstance(value, int | float):
        raise UserError(f"hydra.sweeper.maximize, minimize: a run has no figure {name}: take val/acc, latency_ms, …")
    return float(value)
