"""Values and command lines as a user would type them. No torch in here."""

import re
import shlex


def quoted(text: str) -> str:
    """`text` as a value that Hydra's override grammar takes as it is."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text) + "'"


def command_line(command: str, overrides: list[str]) -> str:
    """What runs one job of a sweep alone."""
    of_sweep = any(override.startswith("sweep=") for override in overrides)
    return shlex.join(["python", "-m", f"sports_lightning.{command}", *overrides, *of_sweep * ["hydra.mode=RUN"]])
