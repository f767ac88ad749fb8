"""What a process has imported before it becomes a command (see commands). Nothing of ours."""

import gc
import logging
import sys

_handler = logging.NullHandler()
logging.getLogger().addHandler(_handler)  # where there is none, Lightning makes one of its own; a command has Hydra's

import captum.attr  # noqa: E402, F401
import hydra  # noqa: E402, F401
import jinja2  # noqa: E402, F401
import matplotlib.metric  # noqa: E402, F401
import pytorch_lightning  # noqa: E402, F401
import rich.table  # noqa: E402, F401
import scipy.stats  # noqa: E402, F401
import simplejpeg  # noqa: E402, F401
import timm  # noqa: E402, F401
import torchvision.transforms.v2  # noqa: E402, F401

logging.getLogger().removeHandler(_handler)

for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
    del sys.modules[name]  # timm's; it makes a temporary folder that the first process to end would remove

gc.freeze()  # as the commands do, see importing
