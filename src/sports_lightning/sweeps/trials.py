"""The trials of a search: each is run by one process, and none is lost or run twice if processes are killed.

A process that runs a trial locks the file `.trial-NUMBER` in the sweep folder. The trial's job, which may outlive that
process, locks its run folder. A trial with neither lock is resumed by the next process that joins the search.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from sports_lightning.errors import UserError
from sports_lightning.runs.layout import PRUNED, has_ended, is_finished
from sports_lightning.runs.resume import is_free
from sports_lightning.runs.signals import EXIT_STATUSES
from sports_lightning.storage.files import DAMAGED
from sports_lightning.storage.locks import FileLock
from sports_lightning.sweeps.jobs import SweepJob

log = logging.getLogger(__name__)


class Trials:
    """Hands out the trials of a study and records their outcomes in it.

    Args:
        study: the open study.
        space: the search space.
        settings: `conf/hydra/sweeper/optuna.yaml`.
        folder: the sweep folder.
    """

    def __init__(
        self, study: optuna.Study, space: dict[str, BaseDistribution], settings: DictConfig, folder: Path
    ) -> None:
        self.study, self.space, self.settings, self.folder = study, space, settings, folder
        self._locks: dict[int, FileLock] = {}  # of the trials that this process runs
        self._orphans = 0  # trials whose process was killed and whose jobs are still running

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """(number, params) of a trial of a killed process, or of a new one; None if there are enough trials.

        Raises:
            UserError: the study holds values that are outside the search space.
        """
        with self._exclusive():
            started = self._orphans = 0
            for trial in self.study.get_trials(deepcopy=False):
                is_sampled = trial.params.keys() == self.space.keys()  # False: killed while sampling
                started += is_sampled
                is_candidate = trial.state == TrialState.RUNNING and trial.number not in self._locks
                if is_candidate and self._acquire(trial.number) and self._can_resume(trial.number, is_sampled):
                    self._check_params(trial.params)
                    return trial.number, trial.params
            if started >= self.settings.n_trials:
                return None
            # A seed per trial: the samples do not depend on which process draws them.
            seed = self.settings.seed + len(self.study.get_trials(deepcopy=False))
            self.study.sampler = instantiate(self.settings.sampler, seed=seed)
            new = self.study.ask(self.space)
            self._acquire(new.number)
            return new.number, new.params

    def wait_for_others(self) -> bool:
        """Whether jobs of killed processes are still running; if so, waits a second."""
        if self._orphans:
            time.sleep(1)
        return self._orphans > 0

    def tell(self, number: int, job: SweepJob) -> None:
        """Record how a job ended. A trial that a signal interrupted stays open: another process can resume it."""
        with self._exclusive():  # otherwise another process could still see the trial as running, and tell it too
            self._tell(number, job)

    def _exclusive(self) -> FileLock:
        """The lock of the process that chooses or tells trials. Not reentrant: closing one descriptor ends the lock."""
        return FileLock(self.folder / ".search")

    def _acquire(self, number: int) -> bool:
        lock = FileLock(self.folder / f".trial-{number}")
        if lock.acquire():
            self._locks[number] = lock
        return number in self._locks

    def _release(self, number: int) -> None:
        self._locks.pop(number).release()

    def _can_resume(self, number: int, is_sampled: bool) -> bool:
        """Whether a trial of a killed process still has to run; if not, record its outcome."""
        run_folder = self.folder / str(number)
        if not is_sampled:
            self.study.tell(number, state=TrialState.FAIL)
            self._release(number)
        elif run_folder.exists() and not is_free(run_folder):
            self._orphans += 1
            self._release(number)
        elif has_ended(run_folder):
            self._tell(number, SweepJob(run_folder, [], 0))
        else:
            return True
        return False

    def _check_params(self, params: dict[str, Any]) -> None:
        for key, value in params.items():
            space: Any = self.space[key]
            is_known = value in space.choices if hasattr(space, "choices") else space.low <= value <= space.high
            if not is_known:
                raise UserError(f"the study {self.settings.study} holds {key}={value}, outside of this search space")

    def _tell(self, number: int, job: SweepJob) -> None:
        if is_finished(job.folder):
            self._tell_values(number, job.folder)
        elif (job.folder / PRUNED).exists():
            self.study.tell(number, state=TrialState.PRUNED)
        elif job.status not in EXIT_STATUSES:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            return  # keep the lock: this process is being stopped too, and must not start the trial again
        self._release(number)

    def _tell_values(self, number: int, folder: Path) -> None:
        try:
            values = [objective_value(folder, name) for name in self.study.metric_names or []]
        except DAMAGED as error:
            log.warning("trial %d counts as failed, since %s is damaged: %s", number, folder, error)
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, values)


def objective_value(folder: Path, name: str) -> float:
    """The value of an objective of a finished run: `val/…` of `metrics.json`, or a cost in `run.json`."""
    split, _, metric = name.rpartition("/")
    file = folder / ("metrics.json" if split else "run.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    return float(content[split][metric] if split else content[metric])
