"""Checks of a command line before Hydra reads it: one helpful line instead of a usage text or a parser's message."""

import argparse
import os
import re
import shlex
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sports_lightning.cli.suggestions import (
    did_you_mean,
    is_group,
    known_keys,
    own_config,
    own_images,
    quoted,
    similar_choice,
    similar_keys,
)
from sports_lightning.errors import UserError


def check_command_line(arguments: Sequence[str], command: str) -> None:
    """Check the options and the syntax of the overrides.

    Args:
        arguments: the command line, with quoted paths.
        command: name of the command.

    Raises:
        UserError: an unknown option, something that is not an override, or a value that Hydra cannot parse.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        parsed, unknown = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see --help") from error
    options = [argument for argument in unknown if argument.startswith("-")]
    if options:
        raise UserError(_unknown_option(options[0], parser, command))
    for override in parsed.overrides:
        _check_override(override, parsed.overrides, command)


def repeated_keys(overrides: Sequence[str]) -> list[str]:
    """A notice for each key that is set more than once; as everywhere in Hydra, the last one counts."""
    given: dict[str, list[str]] = {}
    for override in overrides:
        given.setdefault(override.partition("=")[0].lstrip("+"), []).append(override)
    return [
        f"{key} is given {len(same)} times, and the last one counts: {same[-1]}"
        for key, same in given.items()
        if len(same) > 1
    ]


def _unknown_option(option: str, parser: argparse.ArgumentParser, command: str) -> str:
    name, separator, value = option.lstrip("-").partition("=")
    keys = similar_keys(name, known_keys(command))
    options = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    close = similar_choice(option.partition("=")[0], options)
    if close and name not in (key.rpartition(".")[2] for key in keys):
        return f"there is no option {option}. {did_you_mean(close)}"
    settings = [f"{key}={value if separator else 'VALUE'}" for key in keys]
    return f"there is no option {option}: settings are KEY=VALUE, without dashes. {did_you_mean(settings)}".strip()


def _check_override(override: str, overrides: Sequence[str], command: str) -> None:
    """Raise UserError if `override`, one of `overrides`, cannot be parsed."""
    key, separator, value = override.partition("=")
    if not key or (not separator and not key.startswith("~")):
        raise UserError(_no_override(override, overrides, command))
    try:
        OverridesParser.create().parse_override(override)
    except HydraException as error:
        plain = f"{key.strip()}={value.lstrip(' =')}"
        if plain != override:
            raise UserError(f"{override!r} is not a setting: write {shlex.quote(plain)}") from error
        if key == "data":
            raise UserError(own_images(value)) from error
        name = key.lstrip("+~")
        if not name.isascii() or "'" in name:
            group, _, last = name.rpartition(".")
            remedy = f": write {shlex.quote(f'{group}={{{last}: {value}}}')}" if group == "loss.class_weights" else ""
            raise UserError(f"{name} is no key: keys are of letters without accents, digits and _{remedy}") from error
        raise UserError(
            f"the value of {override} can't be parsed: close its brackets, and quote it for the shell; or, as text, "
            f"write {quoted(key, value)}"
        ) from error


def _no_override(text: str, overrides: Sequence[str], command: str) -> str:
    """The message for an argument without key or without `=`."""
    keys = known_keys(command)
    split = re.search(r"(\S+?)(?: = ?|= )(\S+)", " ".join(overrides))
    if split and text in (*split.groups(), "=", f"={split[2]}"):
        return f"write settings without blanks around =, as in {split[1]}={split[2]}"
    if text in ("help", "h", "?"):
        return f"{text} is not a setting: --help explains {command}"
    if text.endswith((".yaml", ".yml")):
        return own_config(text)
    path = os.path.expanduser(text)
    if os.path.exists(path):
        is_checkpoint = "ckpt_path" in keys and (os.path.isfile(path) or "trainer" not in keys)
        return f"{text} is not a setting: pass {quoted('ckpt_path', text)}" if is_checkpoint else own_images(text)
    if text.lstrip("+~") in keys or is_group(text):
        return f"{text} has no value: pass {text}=VALUE"
    suggestion = did_you_mean(f"{key}=VALUE" for key in similar_keys(text, keys))
    return f"{text} is not a setting: settings are KEY=VALUE, see --help. {suggestion}".strip()
