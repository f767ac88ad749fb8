"""Stored configs of earlier versions, brought up to date: what they name has moved since."""

from collections.abc import Mapping
from typing import Any

# Modules and names that the configs of version 0.1 hold as a `_target_`.
_MOVED = {
    "sports_lightning.augment.": "sports_lightning.data.augment.",
    "sports_lightning.callbacks.": "sports_lightning.train.callbacks.",
    "sports_lightning.last_checkpoint.": "sports_lightning.train.last_checkpoint.",
    "sports_lightning.loggers.": "sports_lightning.train.loggers.",
    "sports_lightning.preprocessing.Fit": "sports_lightning.data.preprocessing.ResizeAndCrop",
}


def upgrade_config(config: Any) -> Any:
    """Return a stored config (plain dicts and lists) as this version writes it. A current config stays as it is."""
    if isinstance(config, Mapping):
        return {key: _moved(value) if key == "_target_" else upgrade_config(value) for key, value in config.items()}
    if isinstance(config, list):
        return [upgrade_config(value) for value in config]
    return config


def _moved(target: Any) -> Any:
    for old, new in _MOVED.items():
        if isinstance(target, str) and target.startswith(old):
            return new + target.removeprefix(old)
    return target
