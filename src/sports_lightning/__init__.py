"""Image classifiers on a folder of images: train, evaluate and predict, composed by config.

The Python API is `load`, `finetune`, `open_run` and `compare`. Importing this package does not import torch: the
commands and the API import it when they are used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sports_lightning.api.image_classifier import ImageClassifier, Prediction, load
    from sports_lightning.api.image_source import ImageSource

__all__ = ["ImageClassifier", "ImageSource", "Prediction", "load"]

__version__ = "0.1.0"

# Beside this file in an installed wheel, at the top of the repository in a checkout.
CONF_DIR = next(d for d in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf") if d.is_dir())

_API = {
    "ImageClassifier": "image_classifier",
    "ImageSource": "image_source",
    "Prediction": "image_classifier",
    "load": "image_classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sports_lightning.api.{_API[name]}"), name)
