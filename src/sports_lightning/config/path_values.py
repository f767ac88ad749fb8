"""Quoting of paths on the command line, so that a user need not know the grammar of Hydra's overrides."""

import os
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sports_lightning.config.overrides import quote_value

# Keys whose value is a path.
PATH_KEYS = (
    *("data.root", "data.cache_dir", "model.weights", "ckpt_path", "input", "run", "runs", "resume"),
    *("hydra.run.dir", "hydra.sweep.dir"),
)


def quote_paths(arguments: Iterable[str]) -> list[str]:
    """Return the command line with the values of path keys quoted, so that Hydra takes them literally.

    A value is quoted where a file or folder of that name exists, or where Hydra could not parse it unquoted: names
    with umlauts, `~`, `=`, `(1)`, commas, apostrophes or brackets. Lists, sweeps over several paths, interpolations and
    values that are already quoted are not changed.
    """
    return [_quoted_path(argument) for argument in arguments]


def _quoted_path(argument: str) -> str:
    key, separator, value = argument.partition("=")
    if not separator or key.lstrip("+") not in PATH_KEYS or not value or value[0] in "'\"" or "${" in value:
        return argument
    path = os.path.expanduser(value)
    try:
        override = OverridesParser.create().parse_override(f"{key}={path}")
        is_literal = not override.is_sweep_override() and str(override.value()) == path
        is_meant = os.path.exists(path)  # one path, which Hydra would parse as something else
    except HydraException:
        is_literal, is_meant = False, True
    return f"{key}={quote_value(path)}" if is_meant and not is_literal else f"{key}={path}"
