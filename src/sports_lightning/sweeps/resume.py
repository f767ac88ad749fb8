"""The folder of a sweep: which one a job is of, and how to go on with it. No torch in here."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sports_lightning import CONF_DIR
from sports_lightning.config.overrides import config_dirs, last_value, quote_value
from sports_lightning.config.trusted_targets import distrust_working_folder
from sports_lightning.errors import UserError
from sports_lightning.runs.resume import check_alone, started_in

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
class ResumedSweep:
    """A sweep that goes on.

    Attributes:
        folder: the sweep's.
        arguments: of the command line that goes on with it.
        is_trusted: whether its configs may name what they like.
        kept: Hydra's files of the sweep and its jobs, which Hydra writes over.
    """

    folder: Path
    arguments: list[str]
    is_trusted: bool
    kept: dict[Path, bytes]


def current_sweep() -> Path | None:
    """The folder of the sweep that this process is a job of."""
    folder = os.environ.get(SWEEP)
    return Path(folder) if folder else None


def check_sweep_dir(arguments: list[str], command: str) -> None:
    """Before a sweep that names its folder itself (`hydra.sweep.dir=FOLDER`).

    Raises:
        UserError: there is a sweep, whose jobs are not to be written over.
    """
    value = last_value(arguments, "hydra.sweep.dir")
    folder = Path(value) if value is not None else None
    if folder and (folder / MULTIRUN).exists() and any(folder.glob("*/.hydra")):
        way_on = f"resume={folder} goes on with it; or " if command == "train" else ""
        raise UserError(f"{folder} holds a sweep: {way_on}choose another hydra.sweep.dir")


def resumed_sweep(arguments: list[str]) -> ResumedSweep | None:
    """The sweep that `resume=FOLDER` names; None where it names none.

    The process changes to the folder that the sweep was begun in.

    Raises:
        UserError: it can't be read, was moved, could run anything, or there are other arguments.
    """
    value = last_value(arguments, "resume")
    folder = Path(os.path.abspath(Path(value or "").expanduser()))
    if not value or not (folder / MULTIRUN).is_file():
        return None
    source, is_trusted = f"resume={value}", "trust=true" in arguments
    check_alone(arguments, value, "-m", "--multirun")
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
    if not cwd.is_dir():
        raise UserError(f"{source} was begun in {cwd}, which is not there: put it back for its relative paths")
    _check_not_moved(folder, source)
    kept = {file: file.read_bytes() for file in [folder / MULTIRUN, *folder.glob("*/.hydra/*.yaml")]}
    os.chdir(cwd)
    going_on = [*of_hydra, *of_task, f"hydra.sweep.dir={quote_value(str(folder))}"]
    return ResumedSweep(folder, [*sources, *going_on], is_trusted, kept)


def _check_not_moved(folder: Path, source: str) -> None:
    """The configs of its jobs point to where they were begun."""
    for file in folder.glob("*/.hydra/hydra.yaml"):
        begun = started_in(file.parents[1])
        if begun and begun != file.parents[1].resolve():
            raise UserError(f"{source} was begun in {begun.parent}: move the folder back there")


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
