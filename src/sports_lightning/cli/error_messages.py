"""Errors as one line for the user: what is wrong, and how to correct it."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from types import TracebackType

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from sports_lightning import CONF_DIR
from sports_lightning.cli.suggestions import (
    did_you_mean,
    known_keys,
    own_config,
    own_images,
    similar_choice,
    similar_keys,
)
from sports_lightning.errors import ThroughHydra, UserError

_WITHOUT_WORKERS = "load in the main process with data.num_workers=0 inference.num_workers=0"


class ErrorReporter:
    """Context manager that turns an error into a line on stderr and an exit status.

    A bug keeps its traceback, and so does every error with HYDRA_FULL_ERROR=1 in the environment.

    Args:
        command: name of the command, whose config keys are suggested for misspelled ones.

    Attributes:
        exit_status: of the command.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.exit_status = 0
        self._shows_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"

    def __enter__(self) -> "ErrorReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Report the error, if there is one. Return whether the error has been handled."""
        if isinstance(error, ThroughHydra):
            error = error.error
        if error is None:
            return False
        if isinstance(error, SystemExit):  # Hydra's, after it has printed help
            self.exit_status = error.code if isinstance(error.code, int) else int(error.code is not None)
            return True
        line = None if self._shows_traceback or not isinstance(error, Exception) else one_line(error, self.command)
        if line is None:
            raise error
        print(f"error: {line}{notes(error)}", file=sys.stderr)
        self.exit_status = 1
        return True


def notes(error: BaseException) -> str:
    """What was added to an error by `add_note`."""
    return "".join(getattr(error, "__notes__", ()))


def one_line(error: Exception, command: str) -> str | None:
    """The message for an error that the user can correct, or None for a bug.

    Args:
        error: the error; errors that it was deliberately raised from (`__cause__`) count too.
        command: name of the command.
    """
    if str(error).startswith("Please call `iter(combined_loader)`") and isinstance(error.__context__, Exception):
        hidden = error.__context__  # by Lightning's clean-up, after a loader could not be started
        if isinstance(hidden, OSError):
            return f"the data-loading workers can't be started ({hidden.strerror or hidden}): {_WITHOUT_WORKERS}"
        return one_line(hidden, command)
    for cause in _causes(error):
        if isinstance(cause, UserError):
            message = str(cause).strip()
            if "Traceback (most recent call last)" in message:  # of a data-loading worker, before its message
                message = re.sub(r"^[\w.]+Error: |^[\w.]+UnreadableImage: ", "", message.splitlines()[-1])
            return message.replace("\n", "\\n")
    if isinstance(error, InstantiationException) and error.__cause__:
        return f"{' '.join(str(error.__cause__).split())} ({str(error).splitlines()[-1]})"
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = " ".join(str(error).split()).partition(" Config search path:")[0]
        if several := re.search(r"Ambiguous value for argument '(.*?)' 1\. ", text):
            key, _, values = several[1].partition("=")
            return f"{several[1]} has several values: add -m for a run of each, or write {key}=[{values}] for a list"
        if present := re.search(r"Multiple values for (\S+)\. To override a value use 'override (\S+): (.*?)'", text):
            return f"{present[1]} has a value already: write {present[2]}={present[3]}, without +"
        if choice := re.search(r"Could not find '([^']+)' Available options in '([^']+)': (.*)", text):
            return _no_choice(choice[1].removeprefix(f"{choice[2]}/"), choice[2], choice[3].split())
        suggestion = _suggestion(text, command)
        if suggestion.startswith(" Did you mean"):  # a misspelled key is more likely than a new one
            text = text.partition(" To append to your config")[0]
        return f"{text.rstrip().removesuffix('.')}.{suggestion}" if suggestion else text
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):  # Hydra's
        return (
            f"{error}: name one of the group's choices (see --help), or leave the group out of the command "
            f"(instead of debug=true, HYDRA_FULL_ERROR=1 in the environment shows tracebacks)"
        )
    if isinstance(error, OSError) and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return f"{error.filename or 'a file'}: {error.strerror}"
    if isinstance(error, shutil.Error):  # of copytree: a list of (source, target, reason)
        return f"can't copy {error.args[0][0][0]}: {error.args[0][0][2]}"
    if isinstance(error, RuntimeError) and (remedy := _shared_memory_remedy(str(error))):
        return remedy
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, not imported here
        return " ".join(str(error).split())
    return None


def _shared_memory_remedy(message: str) -> str | None:
    """The line for an error of torch's data-loading workers, which pass batches through shared memory."""
    if re.search(r"unable to (allocate|write|open|mmap|resize).*shm|out of shared memory", message, re.DOTALL):
        return (
            f"the shared memory (/dev/shm) is too small for the data-loading workers: {_WITHOUT_WORKERS}, or enlarge "
            "it (docker run --shm-size=8g)"
        )
    if re.search(r"Too many open files|received 0 items of ancdata", message):
        return f"the data-loading workers have too many open files: {_WITHOUT_WORKERS}, or raise the limit (ulimit -n)"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _suggestion(message: str, command: str) -> str:
    """How to correct a key that the config does not have, or a sweep."""
    if "requires --multirun" in message or "does not support sweep type" in message:
        return " Add -m for a grid of values, sweep=optuna to search an interval."
    found = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", message)
    if not found:
        return ""
    if choice := _unchosen(found[1]):
        return choice
    known = known_keys(command)
    if found[1] in known:  # Hydra refuses new keys inside a group of keys
        return f" New keys are added one by one: +{found[1]}.KEY=VALUE"
    parents = [found[1][: dot.start()] for dot in re.finditer(r"\.", found[1])]
    if any(key in known and not any(other.startswith(f"{key}.") for other in known) for key in parents):
        return ""  # a group of keys that the user chooses: Hydra's message says how to add one
    return f" {did_you_mean(similar_keys(found[1], known)) or 'See --help for all keys.'}"


def _unchosen(key: str) -> str:
    """How to choose the callback or logger that a key is of; "" for other keys."""
    group, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    if group not in ("callbacks", "logger") or not (CONF_DIR / group / f"{name}.yaml").is_file():
        return ""
    return f" Choose {group}={f'[default,{name}]' if group == 'callbacks' else name} for it."


def _no_choice(name: str, group: str, choices: list[str]) -> str:
    """The message for a choice that a config group does not have."""
    if name.endswith((".yaml", ".yml")):
        return own_config(f"{group}={name}")
    if group == "trainer":  # groups of other projects, such as trainer=gpu
        return (
            f"there is no config trainer/{name}. Set trainer.accelerator (cpu, gpu, mps), trainer.devices or "
            f"trainer.strategy (ddp, fsdp) instead."
        )
    if group == "data" and ("/" in name or os.path.isdir(name)):
        return own_images(name)
    suggestion = did_you_mean(f"{group}={choice}" for choice in similar_choice(name, choices))
    if group == "model":
        suggestion = f"{suggestion} For any model of timm, pass model=timm model.name={name}".strip()
    return f"there is no config {group}/{name}: choose one of {', '.join(choices)}. {suggestion}".strip()
