"""Settings that may change when a run is resumed: where its data lies, and how its results are computed.

They are stored beside the config of the run, which stays as it was: its fingerprint identifies the run.
"""

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sports_lightning.config.groups import Inference
from sports_lightning.config.overrides import last_value
from sports_lightning.runs.provenance import flatten
from sports_lightning.storage.files import write_text

CHANGES = "resumed.yaml"  # beside config.yaml
_FILE = Path(".hydra", CHANGES)
_PATHS = ("data.root", "data.manifest", "data.cache_dir")
_KEYS = {*_PATHS, "data.cache", "data.num_workers", *(f"inference.{field.name}" for field in fields(Inference))}


def may_change(argument: str) -> bool:
    """Whether `argument`, KEY=VALUE, may be added to the command that resumes a run."""
    key, separator, _ = argument.partition("=")
    return bool(separator) and key in _KEYS


def read_changes(arguments: Sequence[str]) -> Any:
    """The values of such arguments, as nested dicts; paths are quoted (see `quote_paths`), from the current folder."""
    changes = OmegaConf.create()
    for key, _, value in (argument.partition("=") for argument in arguments):
        if key in _PATHS:
            OmegaConf.update(changes, key, os.path.abspath(str(last_value([f"{key}={value}"], key))))
        else:
            changes.merge_with(OmegaConf.from_dotlist([f"{key}={value}"]))
    return OmegaConf.to_container(changes)


def stored_changes(folder: Path) -> Any:
    """The settings that were changed when the run in `folder` was resumed, as nested dicts."""
    return OmegaConf.to_container(OmegaConf.load(folder / _FILE)) if (folder / _FILE).is_file() else {}


def with_changes(config: Any, *changes: Any) -> Any:
    """`config` with the changes, all of them nested dicts, in this order."""
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(config), *changes))


def store_changes(folder: Path, stored: Any, cfg: DictConfig) -> None:
    """Keep in the run folder what a resumed run changes, for its other processes and for later readers.

    Args:
        folder: the run folder, which this process has locked.
        stored: its stored config, as nested dicts.
        cfg: the config that the run resumes with.
    """
    before, now = flatten(stored), flatten(OmegaConf.to_container(cfg))
    changes = OmegaConf.create()
    for key in sorted(_KEYS):
        if key in now and (key not in before or now[key] != before[key]):
            OmegaConf.update(changes, key, now[key])
    if changes or (folder / _FILE).exists():
        write_text(folder / _FILE, OmegaConf.to_yaml(changes))


def forget_changes(folder: Path) -> None:
    """Remove what an earlier run in the folder of a new one has changed."""
    (folder / _FILE).unlink(missing_ok=True)
