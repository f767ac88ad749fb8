"""Image classifiers on a folder of images: train, evaluate, predict, all composed by config.

Importing this package is cheap on purpose: torch is imported by the commands when they have work to do, not before.
"""

from pathlib import Path

__version__ = "0.1.0"

# Beside this file in an installed wheel, at the top of the repository in a checkout.
CONF_DIR = next(d for d in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf") if d.is_dir())
