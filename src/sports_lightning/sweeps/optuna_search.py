"""sweep=optuna: a search over hyper-parameters, each trial a job of the sweep.

Optuna (Akiba et al. 2019, arXiv:1907.10902) draws the settings and remembers the trials, in a database that any number
of processes share; what became of a trial is read from its run folder (see trials).
"""

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

from sports_lightning.config.checks import check_search
from sports_lightning.errors import UserError
from sports_lightning.runs.layout import COSTS, METRICS
from sports_lightning.runs.provenance import differences
from sports_lightning.storage.files import write_text
from sports_lightning.sweeps.jobs import SweepJob, wait_for_one
from sports_lightning.sweeps.plots import write_plots
from sports_lightning.sweeps.resume import MULTIRUN
from sports_lightning.sweeps.trials import Trials

_TIMES = ("latency_ms", "images_per_second", "seconds")

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
    settings, folder = config.hydra.sweeper, Path(os.path.abspath(config.hydra.sweep.dir))
    check_search(config)
    directions = objectives(settings)
    timed = [name for name in directions if name in _TIMES]
    if timed and config.sweep.parallel > 1:
        raise UserError(f"{timed[0]} would measure the other jobs too: set sweep.parallel=1")
    given = [*(f"{key}={value}" for key, value in (settings.params or {}).items()), *arguments]
    space, fixed = search_space(given, loader)
    _check_choices(space, fixed, config, loader)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MULTIRUN).exists():  # as Hydra's own sweeper does
        write_text(folder / MULTIRUN, OmegaConf.to_yaml(config))
    study = _open_study(settings, space, fixed, directions, folder)
    trials = Trials(study, space, settings, folder)
    jobs: dict[int, SweepJob] = {}
    anything_to_do = False
    while True:
        while len(jobs) < config.sweep.parallel and (chosen := trials.next()):
            number, params = chosen
            overrides = [*fixed, *(f"{key}={value}" for key, value in params.items())]
            job: SweepJob = launcher.launch([overrides], initial_job_idx=number)[0].return_value
            if job.status is None and not job.is_running():  # sweep.on_error=stop
                return
            jobs[number] = job
            anything_to_do = True
        if not jobs and not trials.wait_for_others():
            break
        if jobs:
            wait_for_one(list(jobs.values()))
            for number in [number for number, job in jobs.items() if not job.is_running()]:
                trials.tell(number, jobs.pop(number))
    write_plots(study, folder)
    if len(directions) > 1:
        print(f"the front of {', '.join(directions)}: jobs {', '.join(str(t.number) for t in study.best_trials)}")
    failed = study.get_trials(deepcopy=False, states=[TrialState.FAIL])
    if failed and not anything_to_do:
        raise UserError(f"{folder}: {len(failed)} trials of this search failed, and no others are left: begin anew")


def search_space(
    arguments: Sequence[str], loader: ConfigLoader | None = None
) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched, {key: distribution}, and the overrides that all trials have.

    `key=interval(a,b)` is a number in between (`int(…)` a whole one, `tag(log,…)` on a logarithmic scale),
    `key=range(a,b)` a whole number, `key=a,b,…` one of these; a later one replaces an earlier one.

    Raises:
        UserError: nothing is searched, or from where nothing can be drawn.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create(loader).parse_overrides(list(arguments)):
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            try:
                space[key] = _distribution(override)
            except (ValueError, IndexError) as error:
                raise UserError(f"{override.input_line}: {' '.join(str(error).split())}") from error
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


def _check_choices(
    space: dict[str, BaseDistribution], fixed: list[str], config: DictConfig, loader: ConfigLoader
) -> None:
    """Compose a job with each of the values of each key that has some, so that what is misspelt stops nothing later."""
    usual = {key: choices[0] for key, choices in ((key, _some_values(d)) for key, d in space.items())}
    for key, distribution in space.items():
        for value in _some_values(distribution):
            chosen = {**usual, key: value}
            loader.load_sweep_config(config, [*fixed, *(f"{key}={value}" for key, value in chosen.items())])


def _some_values(distribution: BaseDistribution) -> list[Any]:
    return list(getattr(distribution, "choices", None) or [distribution.low])  # type: ignore[attr-defined]


def objectives(settings: DictConfig) -> dict[str, Direction]:
    """{metric: "maximize" or "minimize"} of `conf/hydra/sweeper/optuna.yaml`.

    Raises:
        UserError: there is none, or one on the test split.
    """
    chosen = dict.fromkeys(settings.maximize, "maximize") | dict.fromkeys(settings.minimize, "minimize")
    if not chosen:
        raise UserError("the search has no objective: hydra.sweeper.maximize=[val/acc], or minimize")
    known = [*COSTS, *(f"val/{name}" for name in (*METRICS, "ece", "brier"))]
    on_test = [name for name in chosen if name.startswith("test/")]
    if on_test:
        raise UserError(f"{on_test[0]} can't be an objective: valid chooses, test is looked at once; take val/…")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise UserError(f"{unknown[0]} can't be an objective: take one of {', '.join(known)}")
    return chosen  # type: ignore[return-value]


def _open_study(
    settings: DictConfig,
    space: dict[str, BaseDistribution],
    fixed: list[str],
    directions: dict[str, Direction],
    folder: Path,
) -> optuna.Study:
    """The study, a new one or the one that this sweep has begun.

    Raises:
        UserError: it is another sweep's, searches something else, or its storage can't be opened.
    """
    _quiet()
    storage = _storage(settings, folder)
    try:
        study = optuna.create_study(
            storage=storage, study_name=settings.study, directions=list(directions.values()), load_if_exists=True
        )
    except (ValueError, ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"hydra.sweeper.storage={storage} with study {settings.study}: {why}") from error
    wanted: dict[str, Any] = {
        key: optuna.distributions.distribution_to_json(distribution) for key, distribution in space.items()
    }
    wanted |= {**directions, "settings": sorted(fixed), "folder": str(folder)}
    known = study.user_attrs.get("searches")
    if known is None and not study.trials:
        study.set_metric_names(list(directions))
        study.set_user_attr("searches", wanted)
    elif known != wanted:
        other = ", ".join(differences(known or {}, wanted))
        raise UserError(
            f"the study {settings.study} in {storage} searches something else (other {other}): choose another "
            f"hydra.sweeper.study=NAME"
        )
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
