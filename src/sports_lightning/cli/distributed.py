"""The config of a job that another process has composed: of a sweep, or of a training on several devices or machines.

Lightning starts the further processes of a machine itself, and they read what Hydra has written into the run folder.
torchrun and srun start those of all machines, whose disks need not be shared: the first sends it to the others.
"""

import json
import logging
import os
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
from sports_lightning.config.earlier_versions import rename_config_keys, upgrade_config
from sports_lightning.errors import UserError
from sports_lightning.runs.process import TORCHRUN, is_externally_launched, is_rank_zero
from sports_lightning.runs.resume import RESUMES

# Tells the further processes of a distributed run, which Lightning starts, where the config of their job is.
RUN_FOLDER = "SPORTS_LIGHTNING_RUN_FOLDER"

log = logging.getLogger(__name__)

_KEY = "sports_lightning/job"
_PATIENCE = timedelta(minutes=5)
_stores: list[Any] = []  # kept while the process lasts, for the first one's serves the others


def adopt_slurm_environment() -> None:
    """Let the tasks of `srun` find each other as the processes of torchrun do, by the same environment variables.

    A command that is the only task, or stands in a batch script without srun, starts its further processes itself.
    """
    if is_externally_launched():
        return
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        os.environ.pop("SLURM_NTASKS", None)  # by which Lightning would leave it to SLURM to start a process a device
        return
    from lightning_fabric.plugins.environments import SLURMEnvironment

    slurm = {name.removeprefix("SLURM_"): value for name, value in os.environ.items() if name.startswith("SLURM_")}
    names = {"RANK": "PROCID", "LOCAL_RANK": "LOCALID", "GROUP_RANK": "NODEID", "WORLD_SIZE": "STEP_NUM_TASKS"}
    os.environ.update({name: slurm[of_slurm] for name, of_slurm in names.items()})
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(slurm["STEP_NODELIST"]))
    step = 100 * int(slurm["JOB_ID"]) + int(slurm["STEP_ID"])  # two steps of a job may run at once
    os.environ.setdefault("MASTER_PORT", str(15000 + step % 15000))
    os.environ[TORCHRUN] = slurm["JOB_ID"]  # from here on Lightning, too, takes it for torchrun's


def load_job(folder: Path) -> DictConfig:
    """The config that another process has composed and Hydra has written into the run folder."""
    return _set_up(folder, *_written(folder))


def broadcast_job(folder: Path) -> None:
    """Let the other processes that torchrun or srun has started run the job of this one."""
    _store().set(_KEY, json.dumps([str(folder), os.environ.get(RESUMES, ""), *_written(folder)]))


def broadcast_no_job() -> None:
    """Let the other processes end, where this one has not come as far as to send them anything."""
    if not _stores:
        _store().set(_KEY, json.dumps(["", "", "", ""]))


def receive_job() -> tuple[DictConfig, Path]:
    """The config and the run folder that the first process sends. Nothing is written into that folder here."""
    folder, resumes, *written = json.loads(_store().get(_KEY))
    if not folder:
        raise SystemExit(1)  # the first process has said why
    if resumes:
        os.environ[RESUMES] = resumes
    return _set_up(Path(folder), *written), Path(folder)


def _written(folder: Path) -> tuple[str, str]:
    hydra_cfg, cfg = ((folder / ".hydra" / name).read_text(encoding="utf-8") for name in ("hydra.yaml", "config.yaml"))
    return hydra_cfg, cfg


def _store() -> Any:
    """The key-value store by which the processes find each other.

    Raises:
        UserError: they don't.
    """
    from torch.distributed import DistError, rendezvous

    try:
        store = next(iter(rendezvous("env://", timeout=_PATIENCE)))[0]
    except DistError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"the processes of this run don't find each other at {where}: {str(error).splitlines()[0]}; did all start? "
            "MASTER_PORT=NUMBER in the environment is another port"
        ) from error
    _stores.append(store)
    return store


def _set_up(folder: Path, hydra_text: str, text: str) -> DictConfig:
    setup_globals()  # the resolvers ${hydra:…} and ${now:…}
    written: Any = OmegaConf.create(hydra_text)
    resumes = bool(os.environ.get(RESUMES))
    if resumes:  # the stored one could run anything
        written.hydra.job_logging = default_job_logging()
    typed = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(typed, False)  # groups such as hydra/env add keys of their own
    hydra_cfg = OmegaConf.merge({"hydra": typed}, written)
    HydraConfig.instance().set_config(hydra_cfg)  # type: ignore[arg-type]
    if is_rank_zero():
        configure_log(hydra_cfg.hydra.job_logging)
    else:
        logging.disable(logging.INFO)  # the first process says it for all
    stored: Any = OmegaConf.to_container(OmegaConf.create(text))
    for notice in rename_config_keys(stored):
        log.info("%s", notice)
    cfg: Any = OmegaConf.create(upgrade_config(stored))
    if resumes:
        OmegaConf.update(cfg, "resume", str(folder), force_add=True)
        os.chdir(hydra_cfg.hydra.runtime.cwd)  # relative paths of the config are meant from there
    OmegaConf.set_struct(cfg, True)
    return cfg


def default_job_logging() -> Any:
    """The logging that `conf/hydra/base.yaml` sets, as plain dicts and lists, interpolations and all."""
    if GlobalHydra.instance().is_initialized():  # in the midst of a command
        return OmegaConf.to_container(HydraConfig.instance().cfg.hydra.job_logging)  # type: ignore[union-attr]
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("train", return_hydra_config=True).hydra.job_logging)
