"""The folder of a sweep: which one a job is of, and how to go on with it. No torch in here."""

import os
import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sports_lightning.errors import UserError
from sports_lightning.targets import check_targets

SWEEP = "SPORTS_LIGHTNING_SWEEP"  # in the environment of its jobs: the sweep's folder
MULTIRUN = "multirun.yaml"  # by Hydra's sweeper and by ours

# Hydra's own settings that can't run anything, as long as they name no `_target_`.
_HARMLESS = re.compile(r"hydra\.(mode|sweep\.(dir|subdir)|sweeper\.(?!storage$).*)$")


def own_sweep() -> Path | None:
    """The folder of the sweep that this process is a job of."""
    folder = os.environ.get(SWEEP)
    return Path(folder) if folder else None


def check_sweep_dir(arguments: list[str]) -> None:
    """Before a sweep that names its folder itself (`hydra.sweep.dir=FOLDER`).

    Raises:
        UserError: there is a sweep, whose jobs are not to be written over.
    """
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("hydra.sweep.dir=")]
    folder = Path(named[-1].strip("'\"")) if named else None
    if folder and (folder / MULTIRUN).exists():
        raise UserError(f"{folder} holds a sweep: resume={folder} goes on with it; or choose another hydra.sweep.dir")


def resumed_sweep(arguments: list[str]) -> list[str] | None:
    """The arguments that go on with the sweep that `resume=FOLDER` names; None where it names no sweep.

    The process changes to the folder that the sweep was begun in.

    Raises:
        UserError: it can't be read, was moved, could run anything, or there are other arguments.
    """
    named = [argument for argument in arguments if argument.startswith("resume=")]
    folder = Path(named[0].removeprefix("resume=").strip("'\"")).expanduser().absolute() if named else None
    if folder is None or not (folder / MULTIRUN).is_file():
        return None
    others = [argument for argument in arguments if argument not in (named[0], "trust=true", "-m", "--multirun")]
    if others:
        raise UserError(f"{named[0]} takes the sweep's own settings: leave out {others[0]}")
    try:
        written: Any = OmegaConf.to_container(OmegaConf.load(folder / MULTIRUN), resolve=False)
        hydra_cfg = written["hydra"]
        overrides = [*map(str, hydra_cfg["overrides"]["hydra"]), *map(str, hydra_cfg["overrides"]["task"])]
        sources = [source["path"] for source in hydra_cfg["runtime"]["config_sources"]
                   if source["provider"] == "command-line"]  # fmt: skip
        begun_in = Path(hydra_cfg["runtime"]["cwd"])
    except Exception as error:  # whatever a torn or foreign file leads the parser into
        raise UserError(f"{folder / MULTIRUN} can't be read: {' '.join(str(error).split())[:200]}") from error
    if "trust=true" not in arguments:
        _check_harmless(overrides, sources, named[0])
    if not begun_in.is_dir():
        raise UserError(f"{named[0]} was begun in {begun_in}, which is not there: put it back for its relative paths")
    os.chdir(begun_in)
    overrides = [override for override in overrides if not override.startswith("hydra.sweep.dir=")]
    return [*(f"--config-dir={source}" for source in sources), *overrides, f"hydra.sweep.dir={folder}"]


def _check_harmless(overrides: list[str], sources: list[str], source: str) -> None:
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        check_targets({key.rpartition(".")[2]: override.value()}, source)
        is_ours = override.is_hydra_override() and (
            _HARMLESS.match(key) or override.input_line == "hydra/sweeper=optuna"
        )
        if override.is_hydra_override() and not is_ours:
            raise UserError(f"{source} sets {key}, which could run anything: add trust=true if you know the folder")
    if sources:
        raise UserError(f"{source} uses the configs in {sources[0]}: add trust=true if you know them")
