"""Apply a list of operations, and undo them."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from sports_lightning.config.overrides import format_command
from sports_lightning.errors import UserError
from sports_lightning.organize.decisions_file import remove_decisions
from sports_lightning.organize.file_operations import (
    COPY,
    MOVE,
    Operation,
    carry_out,
    check,
    drive_of,
    nearest_existing,
)
from sports_lightning.organize.journal import FILE, UNDONE, Journal
from sports_lightning.organize.taking_back import take_back
from sports_lightning.runs.signals import Interrupted
from sports_lightning.storage.disk_cache import fingerprint
from sports_lightning.storage.files import write_text
from sports_lightning.storage.locks import FileLock

log = logging.getLogger(__name__)

_APPLIED = "applied.txt"  # in the folder of a plan: the run folder of its application
_SPARE = 2**20  # bytes that stay free
_SHOWN = 10  # files that were kept


@contextmanager
def only_process(to: Path) -> Iterator[None]:
    """Work on a folder as the only process of this user.

    Raises:
        UserError: another process works on it.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0  # one user cannot open the lock of another
    name = f"sports_lightning-organize-{fingerprint([os.path.realpath(to), user])}.lock"
    lock = FileLock(Path(tempfile.gettempdir(), name))
    if not lock.acquire():
        raise UserError(f"another process is organizing {to}: wait for it or end it")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def applied_once(planned: Path, run_folder: Path) -> Iterator[None]:
    """Note in the folder of a plan where it is applied, so that a second application is not taken for a new one.

    Raises:
        UserError: the plan has been applied, perhaps not to its end, and that has not been undone.
    """
    check_not_applied(planned)
    write_text(planned / _APPLIED, str(run_folder))
    yield


def check_not_applied(planned: Path) -> None:
    """Raise UserError if a plan has been applied, perhaps not to its end, and that has not been undone."""
    note = planned / _APPLIED
    if note.is_file():
        earlier = Path(note.read_text(encoding="utf-8"))
        if (earlier / FILE).is_file() and not (earlier / UNDONE).exists():
            raise UserError(
                f"plan={planned} was applied in {earlier}: put that back first with undo={earlier}, or plan again"
            )


def check_operations(operations: Iterable[Operation]) -> None:
    """Raise UserError if a target exists, or a source has changed since the plan."""
    for operation in operations:
        if os.path.lexists(operation.target):
            raise UserError(f"{operation.target} exists: nothing is overwritten; plan again")
        check(operation)


def apply(journal: Journal, run_folder: Path) -> None:
    """Write the journal, then carry out its operations.

    Args:
        journal: of operations that have not begun.
        run_folder: where the journal is written.

    Raises:
        UserError: not enough space, a source that has changed since the plan, or a target that is another file.
            What has been done until then stays, and can be undone.
    """
    to = Path(journal.to)
    if (run_folder / FILE).exists() and not (run_folder / UNDONE).exists():
        raise UserError(f"{run_folder} holds the {FILE} of another application: choose another hydra.run.dir")
    check_operations(journal.operations)
    drive = drive_of(to)
    needed = sum(
        operation.size
        for operation in journal.operations
        if operation.kind == COPY or (operation.kind == MOVE and drive_of(operation.source) != drive)
    )
    if needed and needed + _SPARE > (free := _free_bytes(to)):
        raise UserError(f"not enough space: to={to} needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")
    (run_folder / UNDONE).unlink(missing_ok=True)
    journal.write(run_folder)
    try:
        for folder in journal.folders:
            os.makedirs(folder, exist_ok=True)
        for operation in tqdm(journal.operations, "organizing", unit="file", delay=2, leave=False, disable=None):
            carry_out(operation)
    except (UserError, OSError, Interrupted) as error:
        error.add_note(f"; to put back what was done: {format_command('organize', [f'undo={run_folder}'])}")
        raise


def undo(folder: Path) -> list[str]:
    """Put back everything that the application in a run folder has done, also one that was killed.

    Once everything is back, the decisions that it recorded are forgotten.

    Args:
        folder: the run folder that holds the journal.

    Returns:
        Why files were kept, one line each.

    Raises:
        UserError: no journal, or it was undone already.
    """
    journal = Journal.read(folder)
    if (folder / UNDONE).exists():
        raise UserError(f"undo={folder} has been undone already")
    kept = []
    for operation in tqdm(
        list(reversed(journal.operations)), "putting back", unit="file", delay=2, leave=False, disable=None
    ):
        try:
            reason = take_back(operation)
        except UserError as error:
            reason = str(error)
        if reason:
            kept.append(reason)
    if not kept:
        remove_decisions(Path(journal.to), folder)
    for created in reversed(journal.folders):
        with suppress(OSError):  # not empty
            os.rmdir(created)
    for changed, mtime in journal.mtimes.items():
        with suppress(OSError):
            os.utime(changed, ns=(os.stat(changed).st_atime_ns, mtime))
    if not kept:
        write_text(folder / UNDONE, "")
    return kept


def report_kept(kept: list[str]) -> None:
    """Log the files that could not be put back."""
    for reason in kept[:_SHOWN]:
        log.warning("kept: %s", reason)
    if len(kept) > _SHOWN:
        log.warning("and %d more", len(kept) - _SHOWN)


def _free_bytes(to: Path) -> int:
    return shutil.disk_usage(nearest_existing(to)).free
