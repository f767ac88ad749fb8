"""Settings that may change when a run is resumed: where its data lies, and how its results are computed.

They are stored beside the config of the run, which stays as it was: its fingerprint identifies the run.
"""

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sports_lightning.config.overrides import last_value
from sports_lightning.config.path_values import quote_paths
from sports_lightning.config.schema import Inference
from sports_lightning.storage.files import write_text

CHANGES = "resumed.yaml"  # beside config.yaml
_FILE = Path(".hydra", CHANGES)
_PATHS = ("data.root", "data.cache_dir")
_KEYS = {*_PATHS, "data.cache", "data.num_workers", *(f"inference.{field.name}" for field in fields(Inference))}


def may_change(argument: str) -> bool:
    """Whether `argument`, KEY=VALUE, may be added to the command that resumes a run."""
    key, separator, _ = argument.partition("=")
    return bool(separator) and key in _KEYS


def read_changes(arguments: Sequence[str]) -> Any:
    """The values of such arguments, as nested dicts; paths start from the current folder."""
    changes = OmegaConf.create()
    for key, _, value in (argument.partition("=") for argument in arguments):
        if key in _PATHS:
            path = Path(str(last_value(quote_paths([f"{key}={value}"]), key))).expanduser()
            OmegaConf.update(changes, key, os.path.abspath(path))
        else:
            changes.merge_with(OmegaConf.from_dotlist([f"{key}={value}"]))
    return OmegaConf.to_container(changes)


def with_changes(config: Any, folder: Path, more: Any = None) -> Any:
    """The config of a run folder, as dicts and lists, with the settings that were changed when it was resumed.

    Args:
        config: the stored config.
        folder: the run folder.
        more: further changes, as nested dicts.
    """
    changes = [OmegaConf.load(folder / _FILE)] if (folder / _FILE).is_file() else []
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(config), *changes, more or {}))


def store_changes(folder: Path, changes: Any) -> None:
    """Keep changed settings in the run folder, for its other processes and for later readers."""
    write_text(folder / _FILE, OmegaConf.to_yaml(OmegaConf.create(with_changes({}, folder, changes))))
