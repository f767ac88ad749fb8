"""What a config from somebody else's run folder may name as a `_target_`."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import get_object

from sports_lightning.errors import UserError

# Each from its package's modules for just that purpose; a name is judged by where the thing itself is defined, so that
# a way through a module's imports (torch.nn.modules.module.os.system) leads nowhere.
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
    "sports_lightning.data.preprocessing.",
    "timm.loss.",
    "torch.nn.modules.",
    "torchvision.transforms.",
)

_FUNCTIONS = ("sports_lightning.train.callbacks.warmed_up_ema", "sports_lightning.train.loggers.wandb_logger")

# Anything else in ${…}, such as ${oc.create:…}, could make a target of what does not look like one.
_INTERPOLATION = re.compile(r"\$\{(oc\.env:[^${}]*|(hydra:|now:)?[^${}:]*)\}")


def distrust_working_folder() -> None:
    """Let no process that this one starts import from its working folder, which a stranger's config has chosen."""
    os.environ["PYTHONSAFEPATH"] = "1"


def check_targets(config: Any, source: str) -> None:
    """Refuse a config that names anything but the building blocks above as a `_target_`.

    Args:
        config: plain dicts and lists.
        source: where it comes from, for the message.

    Raises:
        UserError: it does.
    """
    for key, value in _entries(config):
        for text in (key, value):
            if isinstance(text, str) and "${" in _INTERPOLATION.sub("", text):
                raise UserError(
                    f"{source} holds {text}, which could make anything: add trust=true if you know the folder"
                )
        if key == "_target_" and not _is_allowed(str(value)):
            raise UserError(
                f"{source} names {value} as a _target_, which is not among the building blocks of this project and "
                f"could do anything: add trust=true if you know where the folder comes from"
            )


def _is_allowed(target: str) -> bool:
    packages = {allowed.partition(".")[0] for allowed in _ALLOWED}
    if target.partition(".")[0] not in packages:
        return False  # not even imported
    try:
        found = get_object(target)
    except Exception:  # no such thing
        return False
    if not isinstance(found, type) and target not in _FUNCTIONS:
        return False
    return f"{getattr(found, '__module__', '')}.".startswith(_ALLOWED)


def _entries(config: Any) -> Iterator[tuple[Any, Any]]:
    """(key, value) of everything in nested dicts and lists; what a list holds has its place for a key."""
    if isinstance(config, Mapping):
        items = list(config.items())
    elif isinstance(config, Sequence) and not isinstance(config, str):
        items = list(enumerate(config))
    else:
        return
    for key, value in items:
        yield key, value
        yield from _entries(value)
