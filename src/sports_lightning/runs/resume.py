"""Resuming: which process may write into a run folder, and which interrupted run is resumed."""

import errno
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from omegaconf import DictConfig, OmegaConf

from sports_lightning.config.earlier_versions import upgrade_config
from sports_lightning.config.overrides import arguments_from, format_command, path_setting, quote_value
from sports_lightning.config.trusted_targets import check_targets, distrust_working_folder
from sports_lightning.errors import RunFolderLocked, UserError
from sports_lightning.runs.changed_settings import stored_changes, with_changes
from sports_lightning.runs.layout import PARTS, has_ended, is_finished, missing_decorations
from sports_lightning.runs.provenance import flatten
from sports_lightning.storage.disk_cache import fingerprint
from sports_lightning.storage.files import remove_partial_files, write_bytes
from sports_lightning.storage.locks import FileLock

log = logging.getLogger(__name__)

LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
LOCK = ".lock"
RESUMES = "SPORTS_LIGHTNING_RESUMES"  # in the environment of a process that resumes its run
_locks: dict[Path, FileLock] = {}  # of the run folders that this process writes into


def lock_run_folder(folder: Path) -> None:
    """Lock the run folder for this process until it releases it or ends, and remove partial files of a killed one.

    Raises:
        UserError: the run is finished.
        RunFolderLocked: another process has locked it.
    """
    check_unfinished(folder)
    _locks[folder] = acquire_lock(folder)
    for place in (folder, folder / ".hydra", (folder / LAST_CHECKPOINT).parent):
        remove_partial_files(place)


def release_run_folder(folder: Path) -> None:
    """Release the lock of `lock_run_folder`, if this process holds it."""
    if lock := _locks.pop(folder, None):
        lock.release()


def check_unfinished(folder: Path) -> None:
    """Raise UserError if `folder` holds a finished run, which must not be overwritten."""
    if is_finished(folder):
        raise UserError(f"{folder} holds a finished run: choose another hydra.run.dir=FOLDER")


def check_output_subdir(value: str | None) -> None:
    """Raise UserError if Hydra's files would not be in `.hydra` of a run folder."""
    if value != ".hydra":
        raise UserError("hydra.output_subdir must stay .hydra: sweeps and other ranks read the config there")


def check_run_folder(folder: Path, resumes_auto: bool) -> dict[Path, bytes]:
    """Check that a new run overwrites nothing in `folder`.

    Args:
        folder: the composed run folder.
        resumes_auto: whether the run may resume an interrupted one (`resume=auto`).

    Returns:
        With `resumes_auto`, Hydra's files of the interrupted run there, by path.

    Raises:
        UserError: the folder holds a finished run, or an interrupted one that the new run does not resume.
        RunFolderLocked: another process has locked it.
    """
    check_unfinished(folder)
    if not (folder / ".hydra").is_dir():
        return {}
    acquire_lock(folder).release()
    if not has_checkpoint(folder):
        return {}
    if not resumes_auto:
        raise UserError(
            f"{folder} holds an interrupted run: resume it with {path_setting('resume', folder)}, or choose another "
            f"hydra.run.dir"
        )
    return {file: file.read_bytes() for file in (folder / ".hydra").glob("*.yaml")}


def has_checkpoint(folder: Path) -> bool:
    """Whether the run can be resumed."""
    return (folder / LAST_CHECKPOINT).exists()


def resume_command(folder: Path) -> str:
    """The command that resumes an interrupted run or prediction; "" if nothing is stored or the run has ended."""
    if (folder / PARTS).is_dir():
        return format_command("predict", [f"resume={folder}"])
    if not has_checkpoint(folder) or has_ended(folder):
        return ""
    return format_command("train", [f"resume={folder}"])


def continue_command(folder: Path, overrides: Sequence[str]) -> str:
    """The command that continues the run in `folder` with other settings, in a new folder.

    Args:
        folder: the run folder.
        overrides: the changed settings.
    """
    try:
        stored: Any = load_hydra_config(folder)["hydra"]
        arguments = arguments_from(stored)
    except (UserError, LookupError, TypeError):
        arguments = ["…"]
    settings = [f"{key}={_as_override(value)}" for key, value in flatten(stored_changes(folder)).items() if key]
    changed = {override.partition("=")[0].lstrip("+") for override in (*overrides, "resume=", "ckpt_path=")}
    kept = [each for each in (*arguments, *settings) if each.partition("=")[0].lstrip("+") not in changed]
    return format_command("train", [*kept, f"ckpt_path={folder / LAST_CHECKPOINT}", *overrides])


def _as_override(value: Any) -> str:
    return quote_value(value) if isinstance(value, str) else json.dumps(value)


def find_interrupted(cfg: DictConfig, folder: Path, before: dict[Path, bytes]) -> Path | None:
    """The newest unfinished, unlocked run with a checkpoint and the settings of `cfg`; None if there is none.

    Args:
        cfg: the composed config.
        folder: the new run's folder; it and its siblings are searched.
        before: content of the files in `folder` that Hydra has overwritten (see `check_run_folder`); they are restored.

    Raises:
        UserError: `folder` holds an interrupted run with other settings.
    """
    last_saved = {path.parent.parent: path.stat().st_mtime for path in folder.parent.glob(f"*/{LAST_CHECKPOINT}")}
    for file, content in before.items():
        write_bytes(file, content)
    wanted = settings_fingerprint(cfg)
    if before and upgraded_settings(folder) != wanted:
        raise UserError(f"{folder} holds an interrupted run with other settings: choose another hydra.run.dir=FOLDER")
    for run in sorted(last_saved, key=last_saved.__getitem__, reverse=True):
        if has_ended(run) or upgraded_settings(run) != wanted:
            continue
        if not is_zipfile(run / LAST_CHECKPOINT):
            log.warning("%s is not resumed: its last checkpoint is damaged", run)
            continue
        try:
            if is_free(run):
                return run
        except UserError as error:  # a folder that cannot be written to
            log.warning("%s is not resumed: %s", run, error)
    return None


def check_resumable(value: str, is_trusted: bool) -> Path:
    """The folder of the run that `resume=value` names.

    Args:
        value: the value on the command line.
        is_trusted: whether its config may name any `_target_`.

    Raises:
        UserError: it is not the folder of an unfinished run, or its config could run foreign code.
    """
    folder = Path(os.path.abspath(Path(value).expanduser()))
    if not (folder / ".hydra" / "overrides.yaml").is_file():  # the last file that Hydra writes when a run starts
        raise UserError(f"resume={value} is not a run or sweep folder of train: pass one such as outputs/train/RUN")
    if has_ended(folder) and not (is_finished(folder) and missing_decorations(folder)):
        if not is_finished(folder):
            raise UserError(f"resume={value} was pruned by its search: nothing is left to do")
        raise UserError(
            f"resume={value} holds a finished run. To train it for more epochs: "
            f"{continue_command(folder, ['trainer.max_epochs=NUMBER'])}. To start a new run from its weights: "
            f"{path_setting('model.weights', folder / 'checkpoints' / 'best.ckpt')}"
        )
    written = (folder, *(folder / name for name in (".hydra", LAST_CHECKPOINT.parent, LOCK, "train.log")))
    if read_only := [path for path in written if path.exists() and not os.access(path, os.W_OK)]:
        raise UserError(
            f"resume={value}: {read_only[0]} is read-only: copy the folder to another place, make the copy writable "
            "(chmod -R u+w COPY), and resume the copy"
        )
    check_trust(folder, value, is_trusted)
    return folder


def check_trust(folder: Path, value: str, is_trusted: bool) -> None:
    """Raise UserError if the config in `folder`, which `resume=value` names, could run foreign code."""
    if not is_trusted:
        check_targets(load_config(folder), f"resume={value}")
        distrust_working_folder()


def enter_working_folder(cwd: Path) -> None:
    """Change to the folder that a run was started in, from which the relative paths of its config are resolved.

    Where it no longer exists, the process stays in its own folder, with a warning. The fingerprints of the images tell
    whether the data found from there is the same.
    """
    if cwd.is_dir():
        os.chdir(cwd)
    else:
        log.warning("%s, where the run was started, does not exist: relative paths start from %s", cwd, Path.cwd())


def load_config(folder: Path) -> Any:
    """The config of a run folder, with the keys of this version and the settings changed when it was resumed.

    As dicts and lists.

    Raises:
        UserError: it can't be read.
    """
    return with_changes(load_original_config(folder), stored_changes(folder))


def load_original_config(folder: Path) -> Any:
    """Like `load_config`, without the settings changed when the run was resumed."""
    return upgrade_config(_load(folder, "config.yaml"))


def load_hydra_config(folder: Path) -> Any:
    """The `hydra.yaml` of a run folder, {"hydra": …}, as dicts and lists.

    Raises:
        UserError: it can't be read.
    """
    return _load(folder, "hydra.yaml")


def run_settings(folder: Path, cfg: DictConfig) -> str:
    """Fingerprint of the settings of a run: of its stored config, or of `cfg` where no config is stored there.

    The stored config decides, because a later resume reads it: that of an earlier version differs from `cfg`.

    Raises:
        UserError: the stored config can't be read.
    """
    if (folder / ".hydra" / "config.yaml").is_file():
        cfg = OmegaConf.create(_load(folder, "config.yaml"))
    return settings_fingerprint(cfg)


def _load(folder: Path, name: str) -> Any:
    file = folder / ".hydra" / name
    try:
        return OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except Exception as error:  # the parser may raise anything on a damaged or foreign file
        raise UserError(f"{file} can't be read as a config: {' '.join(str(error).split())[:200]}") from error


def settings_fingerprint(cfg: DictConfig) -> str:
    """Fingerprint of a config, without the keys that do not influence the result."""
    tree: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    return fingerprint({name: part for name, part in tree.items() if name != "resume"})


def upgraded_settings(folder: Path) -> str | None:
    """Fingerprint of the settings of a run, in the form of this version; None if they can't be read."""
    try:
        return settings_fingerprint(OmegaConf.create(load_original_config(folder)))
    except UserError:
        return None


def is_free(folder: Path) -> bool:
    """Whether no other process has locked the run folder."""
    try:
        acquire_lock(folder).release()
    except RunFolderLocked:
        return False
    return True


def acquire_lock(folder: Path) -> FileLock:
    """Lock a run folder, and return the lock to be released.

    Raises:
        UserError: the folder can't be written to.
        RunFolderLocked: another process has locked it.
    """
    lock = FileLock(folder / LOCK)
    try:
        is_acquired = lock.acquire()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{folder} is read-only: make it writable (chmod -R u+w FOLDER), or copy it to another place and use "
                "the copy; a new run takes another folder with hydra.run.dir=FOLDER"
            ) from error
        raise UserError(
            f"can't lock {lock.path}: {error.strerror}; choose another place with hydra.run.dir=FOLDER"
        ) from error
    if not is_acquired:
        raise RunFolderLocked(f"another process is writing into {folder}: wait for it or end it")
    return lock
