"""Hydra composes a config again only if its files or the chosen options differ, not for each value of a key.

Of a command that is refused at once, Hydra takes nearly all of the time: it reads and merges some 25 files, twice. The
tests run hundreds of those in one process. Processes of their own, which other tests start, compose as always.
"""

from copy import deepcopy
from typing import Any
from unittest.mock import patch

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from sports_lightning import CONF_DIR

_read_file = ConfigRepository.load_config
_find_files = config_loader_impl.create_defaults_list
_merge_files = ConfigLoaderImpl._compose_config_from_defaults_list
_read: dict[str, ConfigResult | None] = {}
_found: dict[Any, DefaultsList] = {}
_merged: dict[Any, DictConfig] = {}


def remember_composed_configs() -> None:
    """Replace the slow steps of Hydra's composition in this process."""
    patch.object(ConfigRepository, "load_config", _file).start()
    patch.object(config_loader_impl, "create_defaults_list", _files).start()
    patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", _config).start()


def _file(repo: ConfigRepository, config_path: str) -> ConfigResult | None:
    if not _has_only_own_files(repo):
        return _read_file(repo, config_path)
    if config_path not in _read:
        _read[config_path] = _read_file(repo, config_path)
    return deepcopy(_read[config_path])


def _files(
    repo: IConfigRepository,
    config_name: str | None,
    overrides_list: list[Override],
    prepend_hydra: bool,
    skip_missing: bool,
) -> DefaultsList:
    options = [o for o in overrides_list if repo.group_exists(o.key_or_group)]
    if not _has_only_own_files(repo) or any(isinstance(o.value(), dict) for o in options):
        return _find_files(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    key = config_name, prepend_hydra, skip_missing, tuple(o.input_line for o in options)
    if key not in _found:
        _found[key] = _find_files(repo, config_name, options, prepend_hydra, skip_missing)
    found = _found[key]
    values = [o for o in overrides_list if o not in options and not o.is_sweep_override()]
    return DefaultsList(found.defaults, found.defaults_tree, values, found.overrides)


def _config(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    if not _has_only_own_files(repo):
        return _merge_files(loader, defaults, repo)
    key = tuple((d.config_path, d.parent, d.package, d.is_self, d.primary) for d in defaults)
    if key not in _merged:
        _merged[key] = _merge_files(loader, defaults, repo)
    return deepcopy(_merged[key])


def _has_only_own_files(repo: IConfigRepository) -> bool:
    """Whether no folder takes part that a test may have written."""
    return {source.path for source in repo.get_sources() if source.scheme() == "file"} == {str(CONF_DIR)}
