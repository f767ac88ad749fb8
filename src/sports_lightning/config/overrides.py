"""Values and command lines as a user would type them. No torch in here."""

import os
import re
import shlex
from typing import Any

from sports_lightning.errors import UserError

# Hydra's options that take the argument after them.
_OPTIONS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--info", "-i", "--experimental-rerun"),
)


def quote_value(text: str) -> str:
    """`text` as a value that Hydra's override grammar takes as it is."""
    if re.fullmatch(r"/[A-Za-z0-9_./-]+", text):  # a plain path
        return text
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text) + "'"


def config_dirs(hydra_cfg: Any) -> list[str]:
    """The command's `--config-dir`, as its Hydra config has it."""
    sources = hydra_cfg["runtime"]["config_sources"]
    return [f"--config-dir={source['path']}" for source in sources if source["provider"] == "command-line"]


def arguments_from(hydra_cfg: Any) -> list[str]:
    """The command line from which this config has been composed, but for Hydra's own keys."""
    return [*config_dirs(hydra_cfg), *map(str, hydra_cfg["overrides"]["task"])]


def format_command(command: str, overrides: list[str]) -> str:
    """What runs one job of a sweep alone; its command line may begin with options."""
    once = ["hydra.mode=RUN"] if any(override.startswith("sweep=") for override in overrides) else []
    return shlex.join(["python", "-m", f"sports_lightning.{command}", *overrides, *once])


def last_value(arguments: list[str], key: str) -> str | None:
    """The last value that a command line gives for a key, without quotes."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{key}=")]
    return values[-1].strip("'\"") if values else None


def collect_positional(arguments: list[str], key: str) -> list[str]:
    """The command line with its bare arguments put together as `key=[…]`.

    Raises:
        UserError: `key` is given by name as well.
    """
    bare = [
        argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if before not in _OPTIONS_WITH_VALUE
        and not argument.startswith("-")
        and ("=" not in argument or os.path.exists(argument))
    ]
    if not bare:
        return arguments
    if any(argument.startswith(f"{key}=") for argument in arguments):
        raise UserError(f"{key} is given twice, by name and as {bare[0]}: put all into {key}=[…], or all without")
    return [*(a for a in arguments if a not in bare), f"{key}=[{','.join(map(quote_value, bare))}]"]
