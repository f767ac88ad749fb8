"""Checks at the start of a sweep, before any job's folder is written (a Hydra callback)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sports_lightning.errors import ThroughHydra, UserError
from sports_lightning.runs.resume import check_output_subdir
from sports_lightning.sweeps.resume import FOLD, KFOLD, check_sweep_folder

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
DEFAULT_SUBDIR = "${hydra.job.num}"

_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class SweepStart(Callback):
    """Called by Hydra with the composed config of a sweep; `conf/hydra/base.yaml` declares it.

    Attributes:
        folder: the sweep folder if a launcher other than Hydra's own runs the jobs elsewhere.
        resumes: whether the sweep is resumed in its folder.
    """

    folder: ClassVar[Path | None] = None
    resumes: ClassVar[bool] = False

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Check the sweep's folder, launcher and job folders, and note the folder of jobs that run elsewhere.

        Raises:
            ThroughHydra: with a UserError: the folder holds another sweep or a run, or is inside the images of
                `data.root`; the launcher starts several tasks per job; or two jobs would share a folder.
        """
        launcher, folder = config.hydra.launcher, Path(os.path.abspath(config.hydra.sweep.dir))
        is_train = config.hydra.job.config_name == "train"
        try:
            check_output_subdir(config.hydra.output_subdir)
            if not SweepStart.resumes:
                check_outside_data(folder, config, "hydra.sweep.dir")
                check_sweep_folder(folder, is_resumable=is_train)
            if launcher.get("nodes", 1) * launcher.get("tasks_per_node", 1) > 1:
                raise UserError(
                    "hydra.launcher starts one task per job: for more tasks, run the job on its own with srun"
                )
            if config.hydra.runtime.choices.get("sweep") == KFOLD:
                _check_kfold(config)
            _check_job_folders(config)
        except UserError as error:
            raise ThroughHydra(error) from error
        except (HydraException, OmegaConfBaseException):
            pass  # Hydra's sweeper composes the same jobs next and raises the same error
        if launcher._target_ != BASIC_LAUNCHER and is_train:
            SweepStart.folder = folder


def check_outside_data(folder: Path, config: DictConfig, key: str) -> None:
    """Check that what a run or sweep writes can't become a class of its dataset, `data.root`.

    Args:
        folder: of the run or sweep, as `key` names it.
        config: the composed config of the command.
        key: `hydra.run.dir` or `hydra.sweep.dir`.

    Raises:
        UserError: the folder is inside that of a split.
    """
    if root := OmegaConf.select(config, "data.root", throw_on_resolution_failure=False):
        from sports_lightning.data.image_folder import check_outside_classes  # not all commands need it

        check_outside_classes(folder, Path(str(root)).expanduser(), key)


def _check_kfold(config: DictConfig) -> None:
    """Check that `sweep=kfold` runs every fold once, each with a test split.

    Raises:
        UserError: the settings do not do that.
    """
    if config.hydra.sweeper._target_ != _BASIC_SWEEPER:
        raise UserError("sweep=kfold runs every fold, which a search does not: leave out hydra/sweeper")
    if config.hydra.job.config_name != "train":
        raise UserError(f"sweep=kfold trains a model per fold: run it with train, not {config.hydra.job.config_name}")
    for override in config.hydra.overrides.task:
        if override.lstrip("+~").startswith(FOLD):
            raise UserError(f"sweep=kfold runs all folds: leave out {override}, or leave out sweep=kfold for one fold")
        if override.lstrip("+~").startswith("data.folds=") and not override.partition("=")[2].isdecimal():
            raise UserError(f"sweep=kfold needs a number of folds: {override} is none")
    if not isinstance(config.data.folds, int) or config.data.folds < 2:
        raise UserError(f"sweep=kfold needs two folds or more: data.folds={config.data.folds}")
    if config.test is False:
        raise UserError("sweep=kfold tests each fold on its own images: leave out test=false")


def _check_job_folders(config: DictConfig) -> None:
    """Check that `hydra.sweep.subdir` gives each job of a grid its own folder within the sweep folder.

    Raises:
        UserError: two jobs share a folder, or a folder is outside the sweep folder.
    """
    template = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[call-overload,index]
    if template == DEFAULT_SUBDIR or config.hydra.sweeper._target_ != _BASIC_SWEEPER:
        return
    jobs: dict[str, int] = {}
    remedy = f"leave out hydra.sweep.subdir or use {DEFAULT_SUBDIR} in it"
    for number, subdir in enumerate(_job_subdirs(config, GlobalHydra.instance().config_loader())):
        if os.path.isabs(subdir) or ".." in Path(subdir).parts:
            raise UserError(f"hydra.sweep.subdir={template}: {subdir} is not inside the sweep folder; {remedy}")
        if (other := jobs.setdefault(os.path.normpath(subdir), number)) != number:
            raise UserError(f"hydra.sweep.subdir={template}: jobs {other} and {number} share {subdir}; {remedy}")


def _job_subdirs(config: DictConfig, loader: ConfigLoader) -> Iterator[str]:
    """The resolved `hydra.sweep.subdir` of each job, composed as Hydra's own sweeper and launcher do."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(loader).parse_overrides([*params, *config.hydra.overrides.task])
    for number, job in enumerate(BasicSweeper.split_arguments(overrides, None)[0]):
        job_config = loader.load_sweep_config(config, list(job))
        with open_dict(job_config):
            job_config.hydra.job.id, job_config.hydra.job.num = f"job_id_for_{number}", number
        yield str(OmegaConf.select(job_config, "hydra.sweep.subdir"))
