"""Paths and class names on the command line, taken literally: a user need not know the grammar of Hydra's overrides."""

import os
import re
from collections.abc import Sequence

from sports_lightning.config.overrides import parse_value, quote_value, quote_with_interpolations
from sports_lightning.errors import UserError

# Keys whose value is a path.
_DATA = ("data.root", "data.name", "data.manifest", "data.split.previous", "data.suspects", "data.cache_dir")
_INPUTS = (*_DATA, "model.weights", "ckpt_path", "input", "to", "plan", "undo", "predictions", "run", "runs", "resume")
_OUTPUTS = (
    "pattern",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.sweeper.storage",
)  # no sweep varies them
_BY_CLASS = "loss.class_weights"  # {CLASS: NUMBER}
_LOCAL_MODEL = "local-dir:"  # before a path that is the value of model.name
_SWEEPS = re.compile(r"\+{0,2}(sweep|hydra\.mode|hydra/sweeper)=")


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Return the command line with the values of path keys quoted, so that Hydra takes them literally.

    An existing path is always meant literally. Other values keep their meaning for Hydra if they are interpolations,
    lists, or several values of a sweep. Whatever Hydra could not parse, such as a path with umlauts, `=`, `(1)` or
    apostrophes, is one path, or a list or a sweep of such paths. A leading `~` is the home folder. A mapping from class
    names is quoted if Hydra could not parse it, or would read a name such as `true` or `007` as something else.

    Raises:
        UserError: an empty path.
    """
    is_sweep = any(argument in ("-m", "--multirun") or _SWEEPS.match(argument) for argument in arguments)
    return [_quoted_argument(argument, is_sweep) for argument in arguments]


def _quoted_argument(argument: str, is_sweep: bool) -> str:
    key, _, value = argument.partition("=")
    if key in ("--config-dir", "-cd"):
        return f"{key}={os.path.expanduser(value)}" if value else argument
    name = key.lstrip("+").removeprefix("changes.")
    if name == _BY_CLASS and re.fullmatch(r"\{.*\}", value) and "${" not in value:
        return argument if _has_text_keys(value) else f"{key}={quote_value(value)}"
    is_path = name in (*_INPUTS, *_OUTPUTS) or (name == "model.name" and value.startswith(_LOCAL_MODEL))
    if not is_path or (name == "resume" and not value):
        return argument
    if not value:
        raise UserError(f"{key}= has no value: is a variable of the shell not set?")
    return f"{key}={_quoted(value, is_sweep and name not in _OUTPUTS)}"


def _has_text_keys(value: str) -> bool:
    """Whether Hydra reads a mapping whose keys are all text, or several mappings of a sweep."""
    parsed = parse_value(value)
    return parsed is not None and (
        parsed.is_sweep_override() or all(isinstance(name, str) for name in parsed.value())  # type: ignore[union-attr]
    )


def _quoted(value: str, is_sweep: bool) -> str:
    """The value of a path key, as typed, in Hydra's grammar."""
    value = _expanded(value)
    if _exists(value):
        return quote_value(value)
    parsed = parse_value(value)
    if "${" in value:
        return value if parsed else quote_with_interpolations(value)
    if parsed is None and value[0] == "[" and value[-1] == "]":
        return f"[{','.join(quote_value(path.strip()) for path in value[1:-1].split(','))}]"
    paths = [path.strip() for path in value.split(",")]
    if (parsed is None or parsed.is_sweep_override()) and len(paths) > 1 and (is_sweep or all(map(_exists, paths))):
        return value if parsed else ",".join(map(quote_value, paths))
    is_meant = parsed and not parsed.is_sweep_override() and isinstance(parsed.value(), str | list | None)
    return value if is_meant else quote_value(value)


def _expanded(value: str) -> str:
    """The value with `~` expanded at the start of each path in it."""
    return re.sub(r"""(?<![^,\[:'"])~[^/,\]'"]*""", lambda found: os.path.expanduser(found[0]), value)


def _exists(path: str) -> bool:
    return os.path.lexists(path.removeprefix(_LOCAL_MODEL))
