"""Which run goes on: who may write into a run folder, and where an interrupted run is. No torch in here."""

import fcntl
import os
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sports_lightning.data.store import fingerprint
from sports_lightning.errors import UserError
from sports_lightning.targets import check_targets

LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
LOCK = ".lock"
_locks: list[int] = []  # open for as long as this process lives


def claim(folder: Path) -> None:
    """Make this process the only one that writes into the run folder, until it ends.

    Raises:
        UserError: the run is finished, or another process has it.
    """
    check_unfinished(folder)
    lock = _lock(folder)
    if lock is None:
        raise UserError(f"another process is writing into {folder}: wait for it or end it")
    _locks.append(lock)


def check_unfinished(folder: Path) -> None:
    """Raise UserError where `folder` holds a finished run, whose figures are not to be written over."""
    if (folder / "metrics.json").exists():
        raise UserError(f"{folder} holds a finished run: leave out resume, or choose another hydra.run.dir=FOLDER")


def check_run_dir(arguments: list[str]) -> None:
    """As above for the command line's `hydra.run.dir=FOLDER`, before Hydra writes its own files there."""
    for argument in arguments:
        if argument.startswith("hydra.run.dir="):
            check_unfinished(Path(argument.partition("=")[2].strip("'\"")))


def way_on(folder: Path) -> str:
    """How an interrupted run goes on, to be added to a message; "" where nothing is saved or it is finished."""
    if not (folder / LAST_CHECKPOINT).exists() or (folder / "metrics.json").exists():
        return ""
    return f"; to go on: python -m sports_lightning.train resume={shlex.quote(str(folder))}"


def find_interrupted(cfg: DictConfig, folder: Path) -> Path | None:
    """The newest run with the settings of `cfg` that has a checkpoint, is not finished and that nobody is writing.

    Args:
        cfg: as composed.
        folder: a run folder of its own; it and those beside it are searched.
    """
    last_saved = {path.parent.parent: path.stat().st_mtime for path in folder.parent.glob(f"*/{LAST_CHECKPOINT}")}
    wanted = settings(OmegaConf.to_container(cfg, resolve=False))  # type: ignore[arg-type]
    for run in sorted(last_saved, key=last_saved.__getitem__, reverse=True):
        if not (run / "metrics.json").exists() and _settings_of(run) == wanted and _is_free(run):
            return run
    return None


def resumed_folder(arguments: list[str]) -> Path | None:
    """The folder that the command line `resume=FOLDER` names, perhaps with `trust=true`; None for any other.

    Raises:
        UserError: it is not the folder of an unfinished run, its config could run anything, or there are other
            arguments.
    """
    named = [argument for argument in arguments if argument.startswith("resume=")]
    value = named[0].removeprefix("resume=").strip("'\"") if named else ""
    if value in ("", "auto", "null"):
        return None
    others = [argument for argument in arguments if argument not in (named[0], "trust=true")]
    if others:
        raise UserError(f"resume={value} takes the run's own settings: leave out {others[0]}")
    folder = Path(value).expanduser().absolute()
    if not (folder / ".hydra" / "overrides.yaml").is_file():  # the last that Hydra writes at a run's start
        raise UserError(f"resume={value} is not a run folder of train: pass one such as outputs/train/RUN")
    check_unfinished(folder)
    if "trust=true" not in arguments:
        check_targets(load_config(folder), f"resume={value}")
        check_targets(_load(folder, "hydra.yaml")["hydra"]["job_logging"], f"resume={value}")
    began = _load(folder, "hydra.yaml")["hydra"]["runtime"]["output_dir"]
    if began != str(folder):
        raise UserError(f"resume={value} was begun as {began}: move the folder back there, where its settings point")
    return folder


def load_config(folder: Path) -> Any:
    """The config of a run folder as plain dicts and lists.

    Raises:
        UserError: it can't be read.
    """
    return _load(folder, "config.yaml")


def _load(folder: Path, name: str) -> Any:
    file = folder / ".hydra" / name
    try:
        return OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except Exception as error:  # whatever a torn or foreign file leads the parser into
        raise UserError(f"{file} can't be read as a config: {' '.join(str(error).split())[:200]}") from error


def settings(config: dict[str, Any]) -> str:
    """Fingerprint of all that decides a run's result and stands in its config."""
    return fingerprint({name: part for name, part in config.items() if name != "resume"})


def _settings_of(folder: Path) -> str | None:
    try:
        return settings(load_config(folder))
    except UserError:
        return None


def _is_free(folder: Path) -> bool:
    lock = _lock(folder)
    if lock is not None:
        os.close(lock)
    return lock is not None


def _lock(folder: Path) -> int | None:
    """A POSIX record lock: it ends with the process, however that ends, and data workers do not inherit it."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file
