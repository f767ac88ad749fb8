"""Errors as the one line that is for the user: what is wrong, and how to put it right. No torch in here."""

import difflib
import errno
import re
from collections.abc import Iterator, Mapping

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sports_lightning import CONF_DIR
from sports_lightning.errors import UserError


def one_line(error: Exception, config_name: str) -> str | None:
    """The message for an error that the user can put right, or None for a bug of ours."""
    for cause in _chain(error):
        if isinstance(cause, UserError):
            # An error raised in a data-loading worker arrives with the worker's traceback before its message.
            return re.sub(r"^[\w.]+Error: |^[\w.]+UnreadablePicture: ", "", str(cause).strip().splitlines()[-1])
    if isinstance(error, InstantiationException) and error.__cause__:
        return f"{' '.join(str(error.__cause__).split())} ({str(error).splitlines()[-1]})"
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = " ".join(str(error).split()).partition(" Config search path:")[0]
        suggestion = _suggestion(text, config_name)
        if suggestion.startswith(" Did you mean"):  # which is likelier than a new key
            text = text.partition(" To append to your config")[0]
        return text + suggestion
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):  # Hydra's
        return f"{error}: name one of the group's choices (see --help), or leave the group out of the command"
    if isinstance(error, OSError) and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return f"{error.filename or 'a file'}: {error.strerror}"
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, not imported here
        return " ".join(str(error).split())
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _suggestion(message: str, config_name: str) -> str:
    """How to put right a choice or a key that the config does not have."""
    choice = re.search(r"Could not find '([\w/]+)/([^']+)' Available options in '[^']+': (.*)", message)
    if choice:
        close = difflib.get_close_matches(choice[2], choice[3].split(), n=1)
        return f" Did you mean {choice[1]}={close[0]}?" if close else ""
    if "requires --multirun" in message or "does not support sweep type" in message:
        return " Add -m for a grid of values, sweep=optuna to search an interval."
    found = re.search(r"Could not override '([^']+)'", message)
    if not found:
        return ""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        known = list(_keys(OmegaConf.to_container(hydra.compose(config_name), resolve=False)))
    if found[1] in known:  # Hydra refuses new keys inside a group of keys
        return f" New keys are added one by one: +{found[1]}.KEY=VALUE"
    close = difflib.get_close_matches(found[1], known, n=1)
    return f" Did you mean {close[0]}?" if close else " See --help for the keys there are."


def _keys(tree: object, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")
