"""Values and command lines as a user would type them. No torch in here."""

import re
import shlex


def quoted(text: str) -> str:
    """`text` as a value that Hydra's override grammar takes as it is."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text) + "'"


def command_line(command: str, overrides: list[str]) -> str:
    """What runs one job of a sweep alone."""
    once = ["hydra.mode=RUN"] if any(override.startswith("sweep=") for override in overrides) else []
    return shlex.join(["python", "-m", f"sports_lightning.{command}", *overrides, *once])


def given(arguments: list[str], key: str) -> str | None:
    """The last value that a command line gives for a key, without quotes."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{key}=")]
    return values[-1].strip("'\"") if values else None
