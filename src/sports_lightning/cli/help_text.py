"""The text of `--help`, in half of Hydra's time: Hydra parses every config group twice for it."""

from collections.abc import Sequence
from string import Template

import hydra
from omegaconf import OmegaConf, open_dict

from sports_lightning import CONF_DIR


def help_text(command: str, overrides: Sequence[str]) -> str:
    """What Hydra prints for `--help` from the template in `conf/hydra/<command>.yaml`.

    Args:
        command: name of the command.
        overrides: of the config that the text ends with.
    """
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose(command, list(overrides), return_hydra_config=True)
    template = cfg.hydra.help.template
    folders = sorted(path for path in CONF_DIR.iterdir() if path.is_dir() and path.name in cfg.hydra.runtime.choices)
    groups = [
        f"{folder.name}: {', '.join(sorted(file.stem for file in folder.glob('*.yaml')))}"
        for folder in folders
        if folder.name != "hydra"
    ]
    with open_dict(cfg):
        del cfg.hydra
    return Template(template).substitute(APP_CONFIG_GROUPS="\n".join(groups), CONFIG=OmegaConf.to_yaml(cfg))
