"""The command line from which Hydra composed the config of this process."""

import shlex

from hydra.core.hydra_config import HydraConfig

from sports_lightning.config.overrides import arguments_from


def composed_command() -> str:
    """The command line that composes the same config again, as recorded in `run.json`."""
    hydra_cfg = HydraConfig.get()
    return shlex.join(["python", "-m", hydra_cfg.help.app_name, *arguments_from(hydra_cfg)])
