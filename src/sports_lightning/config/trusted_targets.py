"""The objects that a config from an untrusted run folder may name as a `_target_`."""

import os
import re
from typing import Any

from hydra.utils import get_object

from sports_lightning.config.trees import elements
from sports_lightning.errors import UserError

# Modules whose classes are allowed. An object is judged by the module that defines it, so that a path through the
# imports of a module, such as torch.nn.modules.module.os.system, is refused.
_ALLOWED = (
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
    "pytorch_lightning.plugins.",
    "pytorch_lightning.profilers.",
    "pytorch_lightning.strategies.",
    "pytorch_lightning.trainer.trainer.",
    "sports_lightning.data.augment.",
    "sports_lightning.train.callbacks.",
    "sports_lightning.train.last_checkpoint.",
    "sports_lightning.train.loggers.",
    "sports_lightning.train.losses.",
    "sports_lightning.data.preprocessing.",
    "timm.loss.",
    "torch.nn.modules.",
    "torchvision.transforms.",
)

_FUNCTIONS = ("sports_lightning.train.callbacks.warmed_up_ema", "sports_lightning.train.loggers.wandb_logger")

# The allowed interpolations. Others, such as ${oc.create:…}, could create a `_target_` that is not in the text.
_INTERPOLATION = re.compile(r"\$\{(oc\.env:[^${}]*|(hydra:|now:)?[^${}:]*)\}")


def distrust_working_folder() -> None:
    """Prevent child processes from importing modules of the working folder, which an untrusted config has chosen."""
    os.environ["PYTHONSAFEPATH"] = "1"


def check_targets(config: Any, source: str) -> None:
    """Refuse a config that names any other object as a `_target_`.

    Args:
        config: plain dicts and lists.
        source: where the config is from, for the message.

    Raises:
        UserError: the config names another object, or contains another interpolation than those allowed.
    """
    for key, value in elements(config):
        for text in (key, value):
            if isinstance(text, str) and "${" in _INTERPOLATION.sub("", text):
                raise UserError(
                    f"{source} contains {text}, which could run any code: add trust=true if you trust the folder"
                )
        if key == "_target_" and not _is_allowed(str(value)):
            raise UserError(
                f"{source} names {value} as a _target_, which is not one of this project's building blocks and could "
                f"run any code: add trust=true if you trust the folder"
            )


def _is_allowed(target: str) -> bool:
    packages = {allowed.partition(".")[0] for allowed in _ALLOWED}
    if target.partition(".")[0] not in packages:
        return False  # without importing it
    try:
        found = get_object(target)
    except Exception:  # it does not exist
        return False
    if not isinstance(found, type) and target not in _FUNCTIONS:
        return False
    return f"{getattr(found, '__module__', '')}.".startswith(_ALLOWED)
