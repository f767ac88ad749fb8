"""sweep=optuna: a hyper-parameter search, each trial a job of the sweep.

Optuna (Akiba et al. 2019, arXiv:1907.10902) proposes the settings and stores the trials in a database that any number
of processes share. The outcome of a trial is read from its run folder (see `trials`).
"""

import os
from pathlib import Path

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import TrialState

from sports_lightning.config.checks import check_search
from sports_lightning.config.overrides import format_command
from sports_lightning.errors import UserError
from sports_lightning.storage.files import write_text
from sports_lightning.sweeps.jobs import SweepJob, wait_for_any
from sports_lightning.sweeps.plots import write_plots
from sports_lightning.sweeps.resume import MULTIRUN, job_folders
from sports_lightning.sweeps.search_space import check_space_composes, objectives, search_space
from sports_lightning.sweeps.start import DEFAULT_SUBDIR
from sports_lightning.sweeps.study import open_study
from sports_lightning.sweeps.trials import Trials

_TIMES = ("latency_ms", "images_per_second", "seconds")  # objectives that concurrent jobs would distort


def search(config: DictConfig, arguments: list[str], loader: ConfigLoader, launcher: Launcher) -> None:
    """Run trials until the study has `hydra.sweeper.n_trials`, `sweep.parallel` at once.

    Args:
        config: the whole config, including Hydra's.
        arguments: the command line's overrides, with or without ranges of values.
        loader: composes the jobs' configs.
        launcher: runs the jobs.

    Raises:
        UserError: the settings can't work, the study belongs to another search, or only failed trials are left.
    """
    settings, folder = config.hydra.sweeper, Path(os.path.abspath(config.hydra.sweep.dir))
    check_search(config)
    if OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] != DEFAULT_SUBDIR:  # type: ignore[call-overload,index]
        raise UserError("a search names its job folders after the trials: leave out hydra.sweep.subdir")
    directions = objectives(settings)
    times = [name for name in directions if name in _TIMES]
    if times and config.sweep.parallel > 1:
        raise UserError(f"{times[0]} would be distorted by parallel jobs: set sweep.parallel=1")
    params = [f"{key}={value}" for key, value in (settings.params or {}).items()]
    space, fixed = search_space([*params, *arguments], loader)
    check_space_composes(space, fixed, config, loader)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MULTIRUN).exists():  # written by the sweeper, as Hydra's own does
        write_text(folder / MULTIRUN, OmegaConf.to_yaml(config))
    study = open_study(settings, space, fixed, directions, folder)
    launched = _run_trials(Trials(study, space, settings, folder), fixed, launcher, config.sweep.parallel)
    if launched is None:
        return
    _report(study, folder)
    failed = study.get_trials(deepcopy=False, states=[TrialState.FAIL])
    if failed and not launched:
        raise UserError(f"{folder}: no trials are left to run, and {len(failed)} have failed: start a new search")


def _run_trials(trials: Trials, fixed: list[str], launcher: Launcher, parallel: int) -> int | None:
    """Launch trials until there are enough; return how many, or None if `sweep.on_error=stop` ended the search."""
    jobs: dict[int, SweepJob] = {}
    launched = 0
    while True:
        while len(jobs) < parallel and (trial := trials.next()):
            number, params = trial
            overrides = [*fixed, *(f"{key}={value}" for key, value in params.items())]
            job: SweepJob = launcher.launch([overrides], initial_job_idx=number)[0].return_value
            if job.status is None and not job.is_running():  # not started: sweep.on_error=stop
                return None
            jobs[number] = job
            launched += 1
        if jobs:
            wait_for_any(list(jobs.values()))
            for number in [number for number, job in jobs.items() if not job.is_running()]:
                trials.tell(number, jobs.pop(number))
        elif not trials.wait_for_others():
            return launched


def _report(study: optuna.Study, folder: Path) -> None:
    write_plots(study, folder)
    if len(study.directions) > 1:
        numbers = ", ".join(str(trial.number) for trial in study.best_trials)
        print(f"Pareto front of {', '.join(study.metric_names or [])}: jobs {numbers}")
    elif (objective := (study.metric_names or [""])[0]) != "val/acc" and study.get_trials(states=[TrialState.COMPLETE]):
        best = study.best_trial  # the table of the jobs is by accuracy
        kind = "lowest" if study.direction == StudyDirection.MINIMIZE else "highest"
        overrides = job_folders(folder)[folder / str(best.number)]
        print(f"{kind} {objective}, {best.value:.4f}, as a single run: {format_command('train', overrides)}")
