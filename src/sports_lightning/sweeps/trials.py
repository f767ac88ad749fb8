"""The trials of a search: each is one process's, and none is lost or run twice when processes are killed.

A process that has a trial holds a lock on a file named after it in the sweep folder. Its job, which may outlive it,
holds the lock on the run folder. A trial without either goes on with whoever takes up the sweep again.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from sports_lightning.errors import UserError
from sports_lightning.runs.layout import PRUNED, is_finished, is_over
from sports_lightning.runs.resume import is_free
from sports_lightning.runs.signals import EXIT_STATUSES
from sports_lightning.storage.locks import lock
from sports_lightning.sweeps.jobs import SweepJob


class Trials:
    """Hands out the trials of a study and takes in what became of them.

    Args:
        study: open.
        space: what is searched.
        settings: `conf/hydra/sweeper/optuna.yaml`.
        folder: the sweep's.
    """

    def __init__(
        self, study: optuna.Study, space: dict[str, BaseDistribution], settings: DictConfig, folder: Path
    ) -> None:
        self.study, self.space, self.settings, self.folder = study, space, settings, folder
        self._held: dict[int, int] = {}  # locks
        self._others = 0  # trials that jobs of a process that was killed still run

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """(number, params) of a trial that a killed process has left, or of a new one; None if there are enough.

        Raises:
            UserError: the study holds values that are not of this search.
        """
        choosing = lock(self.folder / ".search", wait=True)
        assert choosing is not None
        try:
            begun = self._others = 0
            for trial in self.study.get_trials(deepcopy=False):
                is_whole = trial.params.keys() == self.space.keys()  # else killed while it was drawn
                begun += is_whole
                is_left = trial.state == TrialState.RUNNING and trial.number not in self._held
                if is_left and self._take(trial.number) and self._can_go_on(trial.number, is_whole):
                    self._check_params(trial.params)
                    return trial.number, trial.params
            if begun >= self.settings.n_trials:
                return None
            # Drawn anew for each trial, whichever process asks.
            seed = self.settings.seed + len(self.study.get_trials(deepcopy=False))
            self.study.sampler = instantiate(self.settings.sampler, seed=seed)
            new = self.study.ask(self.space)
            self._take(new.number)
            return new.number, new.params
        finally:
            os.close(choosing)

    def wait_for_others(self) -> bool:
        """Where trials are still run by jobs whose process was killed: wait a while; else False."""
        if self._others:
            time.sleep(1)
        return self._others > 0

    def _take(self, number: int) -> bool:
        held = lock(self.folder / f".trial-{number}")
        if held is not None:
            self._held[number] = held
        return held is not None

    def _can_go_on(self, number: int, is_whole: bool) -> bool:
        """Whether anything is left to run of a trial that a killed process has left; else say what it came to."""
        run_folder = self.folder / str(number)
        if not is_whole:
            self.study.tell(number, state=TrialState.FAIL)
        elif run_folder.exists() and not is_free(run_folder):
            self._others += 1
            os.close(self._held.pop(number))
        elif is_over(run_folder):
            self.tell(number, SweepJob(run_folder, [], 0))
        else:
            return True
        return False

    def _check_params(self, params: dict[str, Any]) -> None:
        for key, value in params.items():
            space: Any = self.space[key]
            known = value in space.choices if hasattr(space, "choices") else space.low <= value <= space.high
            if not known:
                raise UserError(f"the study {self.settings.study} holds {key}={value}, which this search can't draw")

    def tell(self, number: int, job: SweepJob) -> None:
        """Tell the study how a job ended. One that a signal has ended can go on, but not in this process."""
        if is_finished(job.folder):
            self.study.tell(number, [objective(job.folder, name) for name in self.study.metric_names or []])
        elif (job.folder / PRUNED).exists():
            self.study.tell(number, state=TrialState.PRUNED)
        elif job.status not in EXIT_STATUSES:
            self.study.tell(number, state=TrialState.FAIL)


def objective(folder: Path, name: str) -> float:
    """A metric of a finished run: `val/…` of `metrics.json`, or a number of `run.json`, such as `latency_ms`."""
    split, _, metric = name.rpartition("/")
    found = json.loads((folder / ("metrics.json" if split else "run.json")).read_text(encoding="utf-8"))
    return float(found[split][metric] if split else found[metric])
