"""The folder of a sweep: which one a job is of, and how to go on with it. No torch in here."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sports_lightning import CONF_DIR
from sports_lightning.config.overrides import config_dirs, quote_value
from sports_lightning.config.trusted_targets import distrust_working_folder
from sports_lightning.errors import UserError
from sports_lightning.runs.resume import enter_working_folder

SWEEP = "SPORTS_LIGHTNING_SWEEP"  # in the environment of its jobs: the sweep's folder
MULTIRUN = "multirun.yaml"  # by Hydra's sweeper and by ours

# All that a stranger's sweep may set of Hydra's own: these act before a job's config is there to be looked at.
_HARMLESS = re.compile(
    r"hydra\.mode=MULTIRUN|hydra/sweeper=optuna|hydra/launcher=submitit_(local|slurm)"
    r"|hydra\.launcher\.(partition|qos|account|nodes|tasks_per_node|cpus_per_task|gpus_per_node|mem_gb|timeout_min)=[\w.-]+"
    r"|hydra\.sweeper\.(n_trials|seed|study)=\w+|hydra\.sweeper\.(maximize|minimize)=\[[\w/, ]*\]"
    r"|hydra\.sweeper\.(sampler|pruner)\._target_=optuna\.(samplers|pruners)\.\w+"
    r"|[+~]{0,2}hydra\.sweeper\.(sampler|pruner)\.(?!_)\w+(=[\w.+-]+)?"
)


@dataclass(frozen=True)
class StoredSweep:
    """An interrupted sweep, as its folder describes it.

    Attributes:
        folder: the sweep folder.
        arguments: command line that resumes it.
        kept: content of Hydra's files of the sweep and its jobs, which Hydra overwrites.
    """

    folder: Path
    arguments: list[str]
    kept: dict[Path, bytes]


def current_sweep() -> Path | None:
    """The folder of the sweep that this process is a job of."""
    folder = os.environ.get(SWEEP)
    return Path(folder) if folder else None


def check_sweep_folder(folder: Path, is_resumable: bool) -> None:
    """Make sure that a new sweep overwrites no other.

    Args:
        folder: the composed sweep folder.
        is_resumable: whether `resume=` takes sweeps of this command.

    Raises:
        UserError: it holds a sweep.
    """
    if is_sweep_folder(folder) and any(folder.glob("*/.hydra")):
        hint = f"resume={folder} resumes it; or " if is_resumable else ""
        raise UserError(f"{folder} holds a sweep: {hint}choose another hydra.sweep.dir")


def is_sweep_folder(folder: Path) -> bool:
    """Whether `folder` is that of a sweep."""
    return (folder / MULTIRUN).is_file()


def open_sweep(value: str, is_trusted: bool) -> StoredSweep:
    """The sweep that `resume=value` names. The process changes to the folder that the sweep was started in.

    Args:
        value: as on the command line.
        is_trusted: whether its configs may name any `_target_`.

    Raises:
        UserError: it can't be read, was moved, or could run anything.
    """
    folder, source = Path(os.path.abspath(Path(value).expanduser())), f"resume={value}"
    try:
        written: Any = OmegaConf.to_container(OmegaConf.load(folder / MULTIRUN), resolve=False)
        hydra_cfg = written["hydra"]
        of_hydra, of_task = (list(map(str, hydra_cfg["overrides"][name])) for name in ("hydra", "task"))
        sources = config_dirs(hydra_cfg)
        cwd, command = Path(hydra_cfg["runtime"]["cwd"]), hydra_cfg["job"]["config_name"]
    except Exception as error:  # whatever a torn or foreign file leads the parser into
        raise UserError(f"{folder / MULTIRUN} can't be read: {' '.join(str(error).split())[:200]}") from error
    if command != "train":
        raise UserError(f"{source} holds a sweep of {command}: run what is left of it yourself")
    of_hydra = [override for override in of_hydra if not override.startswith("hydra.sweep.dir=")]
    if not is_trusted:
        _check_harmless(of_hydra, of_task, sources, source)
        distrust_working_folder()
    kept = {file: file.read_bytes() for file in [folder / MULTIRUN, *folder.glob("*/.hydra/*.yaml")]}
    enter_working_folder(cwd)
    going_on = [*of_hydra, *of_task, f"hydra.sweep.dir={quote_value(str(folder))}"]
    return StoredSweep(folder, [*sources, *going_on], kept)


def _check_harmless(of_hydra: list[str], of_task: list[str], sources: list[str], source: str) -> None:
    """Before anything is composed: nothing may come from elsewhere, or set how jobs are started.

    What the jobs' own configs name is looked at once they are composed (see cli).
    """
    remedy = "add trust=true if you know where the folder comes from"
    if sources:
        raise UserError(f"{source} uses {sources[0]}: {remedy}")
    for override in of_hydra:
        if not _HARMLESS.fullmatch(override):
            raise UserError(f"{source} sets {override}, which could run anything: {remedy}")
    for override in of_task:
        key, _, value = override.partition("=")
        plain = re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w./-]*", key) and ".." not in key
        is_choice = (CONF_DIR / key.lstrip("+~")).is_dir()  # of a file in a group
        if not plain or key.lstrip("+~").startswith("hydra") or (is_choice and ("/" in value or ".." in value)):
            raise UserError(f"{source} sets {override}, which could come from anywhere: {remedy}")
