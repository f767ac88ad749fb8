"""Things that are computed once and kept on disk under a fingerprint of everything that they depend on."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sports_lightning.errors import UserError

_CONTENTS = "contents.json"  # the digest of every file; written last


def resolve_cache_dir(data: DictConfig) -> Path:
    """`data.cache_dir`."""
    return Path(data.cache_dir).expanduser()


def fingerprint(provenance: Any) -> str:
    """BLAKE2b, 128 bits in hexadecimal, of anything that JSON can say."""
    return hashlib.blake2b(json.dumps(provenance, sort_keys=True).encode(), digest_size=16).hexdigest()


def library_versions() -> dict[str, str]:
    """Of the libraries that decide what an image's pixels and features are."""
    return {name: version(name) for name in ("pillow", "simplejpeg", "torch", "torchvision", "timm")}


def cached_folder(cache_dir: Path, kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `cache_dir/kind/key`, filled by `build(folder)` unless it is there and whole.

    It appears under its name in one step, so a run that is killed leaves nothing that another would read. Two
    processes that build the same thing both end with it. What a torn write or a full disk has damaged is built anew.

    Raises:
        UserError: nothing can be written there.
    """
    folder = cache_dir / kind / key
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
        try:
            build(partial)
            digests = {file.name: _digest(file) for file in sorted(partial.iterdir())}
            partial.chmod(0o755)  # for all users of a cache that is shared
            (partial / _CONTENTS).write_text(json.dumps(digests), encoding="utf-8")
            _put(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"can't write {folder}: {error.strerror}; set data.cache_dir=FOLDER") from error
    return folder


def _put(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError:  # there is one: another process was first, or it is damaged
        if _is_whole(folder):
            return
        damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent))
        os.rename(folder, damaged / folder.name)
        os.rename(partial, folder)
        shutil.rmtree(damaged, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        digests = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))
        return all(_digest(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()
