"""The config of a job that another process has composed: of a sweep, or of a training on several devices or machines.

Lightning starts the other processes of a machine itself; they read the config that Hydra wrote into the run folder.
torchrun and srun start the processes of all machines, whose disks need not be shared: the first rank sends the config
to the others.
"""

import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf

from sports_lightning import CONF_DIR
from sports_lightning.errors import UserError
from sports_lightning.runs.changed_settings import with_changes
from sports_lightning.runs.process import TORCHRUN, Process, is_externally_launched, is_rank_zero
from sports_lightning.runs.resume import RESUMES, enter_working_folder, load_config

_JOB_KEY = "sports_lightning/job"
_ARGUMENTS_KEY = "sports_lightning/arguments"
_NO_JOB = json.dumps(["", "", "", ""])
_TIMEOUT = timedelta(minutes=5)
_stores: list[Any] = []  # referenced until the process ends: the first rank's store serves the others


def adopt_slurm_environment() -> None:
    """Set the environment variables of torchrun for the tasks of `srun`, by which they find each other.

    A command that is the only task, or that a batch script starts without srun, starts its other processes itself.
    """
    if is_externally_launched():
        return
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return
    from lightning_fabric.plugins.environments import SLURMEnvironment

    slurm = {name.removeprefix("SLURM_"): value for name, value in os.environ.items() if name.startswith("SLURM_")}
    names = {"RANK": "PROCID", "LOCAL_RANK": "LOCALID", "GROUP_RANK": "NODEID", "WORLD_SIZE": "STEP_NUM_TASKS"}
    os.environ.update({name: slurm[slurm_name] for name, slurm_name in names.items()})
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(slurm["STEP_NODELIST"]))
    step = 100 * int(slurm["JOB_ID"]) + int(slurm["STEP_ID"])  # two steps of a job may run at the same time
    os.environ.setdefault("MASTER_PORT", str(15000 + step % 15000))
    os.environ[TORCHRUN] = slurm["JOB_ID"]  # Lightning now treats the tasks as processes of torchrun


def load_job(folder: Path, changes: Any = None) -> DictConfig:
    """The config that another process has composed and Hydra has written into the run folder.

    Args:
        folder: the run folder.
        changes: settings that differ from now on, as nested dicts.
    """
    return _set_up(folder, _hydra_text(folder), with_changes(load_config(folder), changes or {}))


def broadcast_job(cfg: DictConfig, folder: Path) -> None:
    """Send the job of this process, the first rank, to all other ranks.

    Args:
        cfg: its config.
        folder: the run folder.

    Raises:
        UserError: a rank was started with another command line, so that the ranks are not one run.
    """
    store = _store()
    for rank in range(1, Process.from_environment().world_size):
        arguments = json.loads(store.get(f"{_ARGUMENTS_KEY}/{rank}"))
        if arguments != _command_line():
            store.set(_JOB_KEY, _NO_JOB)
            different = " ".join(sorted(set(arguments) ^ set(_command_line())))
            raise UserError(
                f"the tasks of this step have different command lines ({different}): start one step per run"
            )
    job = [str(folder), os.environ.get(RESUMES, ""), _hydra_text(folder), OmegaConf.to_yaml(cfg)]
    store.set(_JOB_KEY, json.dumps(job))


def broadcast_no_job() -> None:
    """Stop the other ranks, if this one has failed before it sent a job."""
    if not _stores:
        _store().set(_JOB_KEY, _NO_JOB)


def receive_job() -> tuple[DictConfig, Path]:
    """The config and the run folder that the first rank sends. This process writes nothing into that folder.

    Raises:
        SystemExit: the first rank has no job, and has reported the reason.
    """
    store = _store()
    store.set(f"{_ARGUMENTS_KEY}/{Process.from_environment().rank}", json.dumps(_command_line()))
    folder, resumes, hydra_text, text = json.loads(store.get(_JOB_KEY))
    if not folder:
        raise SystemExit(1)
    if resumes:
        os.environ[RESUMES] = resumes
    return _set_up(Path(folder), hydra_text, OmegaConf.create(text)), Path(folder)


def _command_line() -> list[str]:
    return sys.orig_argv[1:]  # as the user typed it; sys.argv holds the arguments for Hydra


def _hydra_text(folder: Path) -> str:
    return (folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8")


def _store() -> Any:
    """The key-value store by which the ranks find each other.

    Raises:
        UserError: the ranks do not find each other.
    """
    from torch.distributed import DistError, rendezvous

    try:
        store = next(iter(rendezvous("env://", timeout=_TIMEOUT)))[0]
    except DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"the processes of this run don't find each other at {address}: {str(error).splitlines()[0]}; did all "
            "start? MASTER_PORT=NUMBER in the environment sets another port"
        ) from error
    _stores.append(store)
    return store


def _set_up(folder: Path, hydra_text: str, config: Any) -> DictConfig:
    """Set up Hydra's global state and logging as if it had composed these configs; return the command's."""
    setup_globals()  # the resolvers ${hydra:…} and ${now:…}
    stored: Any = OmegaConf.create(hydra_text)
    stored.hydra.runtime.output_dir = str(folder)  # to which a run folder may have been moved
    resumes = bool(os.environ.get(RESUMES))
    if resumes:  # the stored logging config could run any code
        stored.hydra.job_logging = default_job_logging()
    typed = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(typed, False)  # groups such as hydra/env add more keys
    hydra_cfg = OmegaConf.merge({"hydra": typed}, stored)
    HydraConfig.instance().set_config(hydra_cfg)  # type: ignore[arg-type]
    if is_rank_zero():
        configure_log(hydra_cfg.hydra.job_logging)
    else:
        logging.disable(logging.INFO)  # the first rank logs for all
    cfg: Any = OmegaConf.create(config)
    if resumes:
        OmegaConf.update(cfg, "resume", str(folder), force_add=True)
        enter_working_folder(Path(hydra_cfg.hydra.runtime.cwd))
    OmegaConf.set_struct(cfg, True)
    return cfg


def default_job_logging() -> Any:
    """The logging config of `conf/hydra/base.yaml` as plain dicts and lists, with its interpolations."""
    if GlobalHydra.instance().is_initialized():  # within a command that Hydra has composed
        return OmegaConf.to_container(HydraConfig.instance().cfg.hydra.job_logging)  # type: ignore[union-attr]
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("train", return_hydra_config=True).hydra.job_logging)
