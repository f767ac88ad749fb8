"""Disk cache: results that are computed once and stored under a fingerprint of everything that they depend on."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sports_lightning.errors import UserError
from sports_lightning.storage.code_digest import code_digest
from sports_lightning.storage.locks import one_at_a_time

_CONTENTS = "contents.json"  # {file name: digest, or [digest, size, mtime]}; written last
_ALWAYS_HASHED = 2**26  # bytes; larger files are hashed only if their size or modification time has changed


def resolve_cache_dir(data: DictConfig) -> Path:
    """`data.cache_dir`, with `~` expanded; for a user without a home folder, `~` is the working folder."""
    path = os.path.expanduser(data.cache_dir)
    return Path(path.replace("~", ".", 1) if path.startswith("~") else path)


def fingerprint(values: Any) -> str:
    """128-bit BLAKE2b digest, in hexadecimal, of anything that can be written as JSON."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that determine an image's pixels and features."""
    return installed_versions(["pillow", "pillow-heif", "simplejpeg", "torch", "torchvision", "timm"])


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the packages among these that are installed; pillow-heif may be removed by a user."""
    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def cache_key(module: str, *values: Any) -> str:
    """The key of a value for `cached_folder`: what it depends on, with the versions of libraries and of our own code.

    Args:
        module: `__name__` of the module that computes the value; its code is part of the key, and that of the modules
            that it imports (see `code_digest`).
        values: what else the value depends on, as JSON values.
    """
    return fingerprint([code_digest(module), library_versions(), *values])


def cached_folder(
    cache_dir: Path, kind: str, key: str, build: Callable[[Path], None], remedy: str = "set data.cache_dir=FOLDER"
) -> Path:
    """The folder `cache_dir/kind/key`, filled by `build(folder)` unless it exists and is intact.

    The folder appears in one step, so a killed process leaves nothing incomplete. A lock makes processes that need
    the same folder wait for the one that builds it. Damaged content is detected and built again: files up to 64 MB
    are hashed at every call, larger ones only if their size or modification time differs from when they were written.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = cache_dir / kind / key
    if _is_intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder, f"the {kind} in {cache_dir}"):
            if not _is_intact(folder):  # otherwise another process has built it in the meantime
                _build(folder, build)
    except OSError as error:
        if error.filename and not _is_below(os.fsdecode(error.filename), cache_dir):
            raise  # `build` could not read one of its inputs
        raise UserError(f"can't write {folder}: {error.strerror or error}; {remedy}") from error
    return folder


def find_cached_folder(cache_dir: Path, kind: str, key: str) -> Path | None:
    """The folder that `cached_folder` has filled, if it is intact."""
    folder = cache_dir / kind / key
    return folder if _is_intact(folder) else None


def _is_below(path: str, folder: Path) -> bool:
    # From Python 3.12 on, `mkdtemp` returns an absolute path also for a relative folder.
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build(partial)
        contents = {file.name: [_digest(file), *_size_and_time(file)] for file in sorted(partial.iterdir())}
        partial.chmod(0o755)  # readable by all users of a shared cache
        (partial / _CONTENTS).write_text(json.dumps(contents), encoding="utf-8")
        _move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_into_place(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError:  # the folder exists: another process was first, or it is damaged
        if _is_intact(folder):
            return
        damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent))
        os.rename(folder, damaged / folder.name)
        os.rename(partial, folder)
        shutil.rmtree(damaged, ignore_errors=True)


def _is_intact(folder: Path) -> bool:
    try:
        contents = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))
        return all(_is_unchanged(folder / name, expected) for name, expected in contents.items())
    except (OSError, ValueError, AttributeError):
        return False


def _is_unchanged(file: Path, expected: str | list[Any]) -> bool:
    digest, *size_and_time = [expected] if isinstance(expected, str) else expected  # a string in version 0.1
    if file.stat().st_size > _ALWAYS_HASHED and size_and_time == _size_and_time(file):
        return True
    return _digest(file) == digest


def _size_and_time(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()
