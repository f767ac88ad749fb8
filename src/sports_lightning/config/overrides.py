"""Overrides (`KEY=VALUE`) as a user types them on the command line. No torch in here."""

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from sports_lightning.config.earlier_versions import RENAMED_KEYS, rename_notice
from sports_lightning.errors import UserError

# Hydra's options that take the next argument as their value.
_OPTIONS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--info", "-i", "--experimental-rerun"),
)

# Groups of which none can be chosen, with the default that means so; Hydra itself takes no null for a group.
_NO_CHOICE = {"callbacks": "none", "logger": "none", "debug": None, "experiment": None}
_NONE_WORDS = ("none", "null", "false", "no", "off", "[]")


def quote_value(text: str) -> str:
    """Return `text` quoted so that Hydra's override grammar reads it as a string."""
    if re.fullmatch(r"/[A-Za-z0-9_./-]+", text):  # a plain path
        return text
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text) + "'"


def config_dirs(hydra_cfg: Any) -> list[str]:
    """Return the `--config-dir` options of a command, from its Hydra config."""
    sources = hydra_cfg["runtime"]["config_sources"]
    return [f"--config-dir={source['path']}" for source in sources if source["provider"] == "command-line"]


def arguments_from(hydra_cfg: Any) -> list[str]:
    """Return the command line from which a config was composed, without overrides of Hydra's own keys."""
    return [*config_dirs(hydra_cfg), *map(str, hydra_cfg["overrides"]["task"])]


def format_command(command: str, overrides: list[str]) -> str:
    """Return the shell command that runs one job of a sweep on its own.

    Args:
        command: name of the command, such as `train`.
        overrides: the job's command line, which may start with options.
    """
    single_run = ["hydra.mode=RUN"] if any(override.startswith("sweep=") for override in overrides) else []
    return shlex.join(["python", "-m", f"sports_lightning.{command}", *overrides, *single_run])


def last_value(arguments: Sequence[str], key: str) -> str | None:
    """Return the last value that a command line gives for a key, without quotes; None if it gives none."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{key}=")]
    return values[-1].strip("'\"") if values else None


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
    """Spell `logger=false` as Hydra accepts it, and `+trainer.KEY=VALUE` so that the config may have the key."""
    key, equals, value = argument.partition("=")
    if equals and key in _NO_CHOICE and value.lower() in _NONE_WORDS:
        return [f"{key}={_NO_CHOICE[key]}"] if _NO_CHOICE[key] else []
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

    An argument is positional if it is neither an option, nor the value of one, nor an override; an argument with `=`
    that is an existing path is positional, too.

    Raises:
        UserError: `key` is given as an override as well.
    """
    positional = [
        argument
        for previous, argument in zip(["", *arguments], arguments, strict=False)
        if previous not in _OPTIONS_WITH_VALUE
        and not argument.startswith("-")
        and ("=" not in argument or os.path.exists(argument))
    ]
    if not positional:
        return arguments
    if any(argument.startswith(f"{key}=") for argument in arguments):
        raise UserError(
            f"{key} is given both as {key}= and as {positional[0]}: use one of the two forms for all values"
        )
    values = [quote_value(value) for value in positional]
    override = f"{key}={values[0]}" if len(values) == 1 else f"{key}=[{','.join(values)}]"
    return [*(argument for argument in arguments if argument not in positional), override]
