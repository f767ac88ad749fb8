"""The folder of a sweep: its jobs, and how to resume it."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sports_lightning import CONF_DIR
from sports_lightning.config.overrides import config_dirs, path_setting, quote_value, unresolved
from sports_lightning.config.trusted_targets import distrust_working_folder
from sports_lightning.errors import UserError
from sports_lightning.runs.resume import enter_working_folder

log = logging.getLogger(__name__)

SWEEP = "SPORTS_LIGHTNING_SWEEP"  # in a job's environment: the sweep's folder
KFOLD, FOLD = "kfold", "data.fold="  # conf/sweep/kfold.yaml, and the override that its jobs differ in
MULTIRUN = "multirun.yaml"  # written by Hydra's sweeper and by ours

# Hydra settings that a sweep from an untrusted folder may set: they take effect before the jobs' configs are checked.
_ALLOWED_HYDRA_OVERRIDES = re.compile(
    r"hydra\.mode=MULTIRUN|hydra/sweeper=optuna|hydra/launcher=submitit_(local|slurm)"
    r"|hydra\.launcher\.(partition|qos|account|nodes|tasks_per_node|cpus_per_task|gpus_per_node|mem_gb|timeout_min)=[\w.-]+"
    r"|hydra\.sweeper\.(n_trials|seed|study)=\w+|hydra\.sweeper\.(maximize|minimize)=\[[\w/, ]*\]"
    r"|hydra\.sweeper\.(sampler|pruner)\._target_=optuna\.(samplers|pruners)\.\w+"
    r"|[+~]{0,2}hydra\.sweeper\.(sampler|pruner)\.(?!_)\w+(=[\w.+-]+)?"
)


@dataclass(frozen=True)
class StoredSweep:
    """A sweep to be resumed, as its folder describes it.

    Attributes:
        folder: the sweep folder.
        arguments: the command line that resumes it.
        overwritten_files: content of the files of the sweep and its jobs that Hydra is about to overwrite.
    """

    folder: Path
    arguments: list[str]
    overwritten_files: dict[Path, bytes]


def current_sweep() -> Path | None:
    """The folder of the sweep that this process is a job of; None outside a sweep."""
    folder = os.environ.get(SWEEP)
    return Path(folder) if folder else None


def job_folders(sweep_folder: Path) -> dict[Path, list[str]]:
    """{run folder: command line} of the jobs of a sweep, also in nested folders (see `hydra.sweep.subdir`)."""
    files = sorted(sweep_folder.rglob(".hydra/overrides.yaml"))
    if not files:
        return {}
    options = config_dirs(OmegaConf.load(sweep_folder / MULTIRUN).hydra)
    folders = {}
    for file in files:
        try:
            folders[file.parents[1]] = [*options, *unresolved(OmegaConf.load(file))]
        except Exception as error:  # the parser may raise anything on a damaged file
            log.warning("%s is left out, since its %s is damaged: %s", file.parents[1], file.name, error)
    return folders


def is_sweep_folder(folder: Path) -> bool:
    """Whether `folder` is the folder of a sweep."""
    return (folder / MULTIRUN).is_file()


def is_kfold(sweep_folder: Path) -> bool:
    """Whether `sweep_folder` is that of `sweep=kfold`."""
    file = sweep_folder / MULTIRUN
    try:
        return file.is_file() and OmegaConf.select(OmegaConf.load(file), "hydra.runtime.choices.sweep") == KFOLD
    except Exception:  # the parser may raise anything on a damaged file, which is reported where the sweep is resumed
        return False


def check_sweep_folder(folder: Path, is_resumable: bool) -> None:
    """Check that a new sweep overwrites no other sweep or run, and that no other run would count as one of its jobs.

    Args:
        folder: the composed sweep folder.
        is_resumable: whether `resume=` takes sweeps of this command.

    Raises:
        UserError: the folder is or holds a sweep or a run.
    """
    if any(folder.rglob(".hydra")):
        if not is_sweep_folder(folder):
            raise UserError(f"{folder} holds runs: choose another hydra.sweep.dir, a new folder")
        hint = f"resume it with {path_setting('resume', folder)}, or " if is_resumable else ""
        raise UserError(f"{folder} holds a sweep: {hint}choose another hydra.sweep.dir")


def open_sweep(value: str, is_trusted: bool) -> StoredSweep:
    """The sweep that `resume=value` names. Changes the working directory to the one in which the sweep was started.

    Args:
        value: the value on the command line.
        is_trusted: whether the jobs' configs may name any `_target_`.

    Raises:
        UserError: the folder can't be read, or could run foreign code.
    """
    folder, source = Path(os.path.abspath(Path(value).expanduser())), f"resume={value}"
    stored = _read_multirun(folder / MULTIRUN)
    if stored.command != "train":
        raise UserError(
            f"{source} is a sweep of {stored.command}, which can't be resumed: run its remaining jobs one by one"
        )
    if not is_trusted:
        _check_trusted(stored, source)
        distrust_working_folder()
    overwritten_files = {file: file.read_bytes() for file in [folder / MULTIRUN, *folder.rglob(".hydra/*.yaml")]}
    enter_working_folder(stored.cwd)
    overrides = [*stored.hydra_overrides, *stored.task_overrides, f"hydra.sweep.dir={quote_value(str(folder))}"]
    return StoredSweep(folder, [*stored.config_dirs, *overrides], overwritten_files)


@dataclass(frozen=True)
class _Multirun:
    """The way a sweep was started, read from `multirun.yaml`."""

    command: str
    cwd: Path
    config_dirs: list[str]
    hydra_overrides: list[str]  # without hydra.sweep.dir
    task_overrides: list[str]


def _read_multirun(file: Path) -> _Multirun:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        hydra_cfg = content["hydra"]
        hydra_overrides, task_overrides = (list(map(str, hydra_cfg["overrides"][name])) for name in ("hydra", "task"))
        return _Multirun(
            command=hydra_cfg["job"]["config_name"],
            cwd=Path(hydra_cfg["runtime"]["cwd"]),
            config_dirs=config_dirs(hydra_cfg),
            hydra_overrides=[override for override in hydra_overrides if not override.startswith("hydra.sweep.dir=")],
            task_overrides=task_overrides,
        )
    except Exception as error:  # the parser may raise anything on a damaged or foreign file
        raise UserError(f"{file} can't be read: {' '.join(str(error).split())[:200]}") from error


def _check_trusted(stored: _Multirun, source: str) -> None:
    """Check a sweep before anything is composed: it may not use other configs, or set how jobs are started.

    The jobs' own `_target_`s are checked after composition.

    Raises:
        UserError: the sweep does one of these.
    """
    remedy = "add trust=true if you know where the folder comes from"
    if stored.config_dirs:
        raise UserError(f"{source} uses {stored.config_dirs[0]}: {remedy}")
    for override in stored.hydra_overrides:
        if not _ALLOWED_HYDRA_OVERRIDES.fullmatch(override):
            raise UserError(f"{source} sets {override}, which could run foreign code: {remedy}")
    for override in stored.task_overrides:
        key, _, value = override.partition("=")
        is_plain = re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w./-]*", key) and ".." not in key
        is_group = (CONF_DIR / key.lstrip("+~")).is_dir()  # the value names a file in it
        if not is_plain or key.lstrip("+~").startswith("hydra") or (is_group and ("/" in value or ".." in value)):
            raise UserError(f"{source} sets {override}, which could read a foreign config: {remedy}")
