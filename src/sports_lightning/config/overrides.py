"""Overrides (`KEY=VALUE`) as a user types them on the command line. No torch in here."""

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from sports_lightning.config.earlier_versions import DROPPED_KEYS, RENAMED_KEYS, rename_notice
from sports_lightning.errors import UserError

# Hydra's options that take the next argument as their value.
_OPTIONS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--info", "-i", "--experimental-rerun"),
)

# Groups of which none can be chosen, with the default that means so; Hydra itself takes no null for a group.
_NO_CHOICE = {"callbacks": "none", "logger": "none", "debug": None, "experiment": None}
_NONE_WORDS = ("none", "null", "false", "no", "off", "[]")

_OVERRIDE = re.compile(r"(\+\+?|~)?(hydra/)?[\w$@:.-]*=", re.ASCII)


def parse_value(text: str) -> Override | None:
    """Return what Hydra's override grammar reads from the value `text`; None if it cannot be parsed."""
    try:
        return OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return None


def quote_value(text: str) -> str:
    """Return `text` so that Hydra's override grammar and OmegaConf's interpolation read it as this string.

    It is quoted only where that is needed.
    """
    parsed = parse_value(text)
    if parsed and not parsed.is_sweep_override() and parsed.value() == text and "${" not in text:
        return text
    return quote_with_interpolations(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def quote_with_interpolations(text: str) -> str:
    """Return `text` quoted for Hydra's override grammar; each `${…}` in it is still replaced by its value."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text) + "'"


def config_dirs(hydra_cfg: Any) -> list[str]:
    """Return the `--config-dir` options of a command, from its Hydra config."""
    sources = hydra_cfg["runtime"]["config_sources"]
    return [f"--config-dir={source['path']}" for source in sources if source["provider"] == "command-line"]


def arguments_from(hydra_cfg: Any) -> list[str]:
    """Return the command line from which a config was composed, without overrides of Hydra's own keys."""
    return [*config_dirs(hydra_cfg), *unresolved(hydra_cfg["overrides"]["task"])]


def unresolved(overrides: Any) -> list[str]:
    """Return stored overrides as they were typed: a `${…}` in them is not replaced."""
    plain: Any = OmegaConf.to_container(overrides) if OmegaConf.is_config(overrides) else overrides
    return list(map(str, plain))


def format_command(command: str, overrides: list[str]) -> str:
    """Return the shell command that runs one job of a sweep on its own.

    Args:
        command: name of the command, such as `train`.
        overrides: the job's command line, which may start with options.
    """
    single_run = ["hydra.mode=RUN"] if any(override.startswith("sweep=") for override in overrides) else []
    return shlex.join(["python", "-m", f"sports_lightning.{command}", *overrides, *single_run])


def path_setting(key: str, path: object) -> str:
    """Return `key=path` for a shell; a path needs no quotes for Hydra (see path_values)."""
    return shlex.quote(f"{key}={path}")


def last_value(arguments: Sequence[str], key: str) -> str | None:
    """Return the last value that a command line gives for a key, as text; None if it gives none, or null.

    Raises:
        HydraException, OmegaConfBaseException: the value can't be parsed or resolved.
    """
    given = [argument for argument in arguments if argument.lstrip("+").startswith(f"{key}=")]
    if not given:
        return None
    value = OmegaConf.create({key: OverridesParser.create().parse_override(given[-1]).value()})[key]
    return None if value is None else str(value)


def rename_keys(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Replace the keys of version 0.1 by their new names, and usual spellings by those that Hydra accepts.

    Args:
        arguments: the command line; keys may follow `+`, `++`, `~` or `changes.`, or be in `${…}`.

    Returns:
        The command line with new keys only, and a notice for each key that was replaced.
    """
    renamed, notices = [argument for given in arguments for argument in _accepted(given)], []
    for old, new in RENAMED_KEYS.items():
        pattern = rf"^((?:\+\+?|~)?(?:changes\.)?|.*\$\{{){re.escape(old)}(?=[=}}]|$)"
        replaced = [re.sub(pattern, lambda found, new=new: found[1] + new, argument) for argument in renamed]  # type: ignore[misc]
        if replaced != renamed:
            notices.append(rename_notice(old))
        renamed = replaced
    return renamed, notices


def _accepted(argument: str) -> list[str]:
    """Spell `logger=false` as Hydra accepts it, and `+trainer.KEY=VALUE` so that the config may have the key or not."""
    key, equals, value = argument.partition("=")
    if equals and key in _NO_CHOICE and value.lower() in _NONE_WORDS:
        return [f"{key}={_NO_CHOICE[key]}"] if _NO_CHOICE[key] else []
    if key in DROPPED_KEYS:
        return [f"++{argument}"]
    if re.fullmatch(r"\+[A-Za-z_]\w*(\.\w+)+", key):
        return [f"+{argument}"]
    return [argument]


def options_first(arguments: Sequence[str]) -> list[str]:
    """Return the command line with its options, and their values, before its overrides, as Hydra's parser needs it."""
    is_option = [
        argument.startswith("-") or previous in _OPTIONS_WITH_VALUE
        for previous, argument in zip(["", *arguments], arguments, strict=False)
    ]
    return [argument for _, argument in sorted(zip(is_option, arguments, strict=True), key=lambda pair: not pair[0])]


def collect_positional(arguments: list[str], key: str) -> list[str]:
    """Return the command line with its positional arguments collected into the override `key=VALUE` or `key=[…]`.

    An argument is positional if it is neither an option, nor the value of one, nor an override: without `=`, with
    something before it that cannot be a key, or the name of an existing path.

    Raises:
        UserError: `key` is given as an override as well.
    """
    positional = [
        argument
        for previous, argument in zip(["", *arguments], arguments, strict=False)
        if previous not in _OPTIONS_WITH_VALUE
        and not argument.startswith("-")
        and (not _OVERRIDE.match(argument) or os.path.lexists(argument))
    ]
    if not positional:
        return arguments
    if any(argument.lstrip("+").startswith(f"{key}=") for argument in arguments):
        raise UserError(
            f"{key} is given both as {key}= and as {positional[0]}: use one of the two forms for all values"
        )
    values = [quote_value(value) for value in positional]
    override = f"{key}={values[0]}" if len(values) == 1 else f"{key}=[{','.join(values)}]"
    return [*(argument for argument in arguments if argument not in positional), override]
