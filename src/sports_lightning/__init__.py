"""Image classifiers on a folder of images: train, evaluate and predict, composed by config.

The Python API is `load`, `finetune`, `open_run` and `compare`. Importing this package does not import torch: the
commands and the API import it when they are used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sports_lightning.api.finetuning import finetune
    from sports_lightning.api.image_classifier import ImageClassifier, Prediction, load
    from sports_lightning.api.run import Run, open_run
    from sports_lightning.data.image_source import ImageSource

__all__ = ["ImageClassifier", "ImageSource", "Prediction", "Run", "compare", "finetune", "load", "open_run"]

__version__ = "0.2.0"

# In an installed wheel it is next to this file, in a checkout at the top of the repository.
CONF_DIR = next(d for d in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf") if d.is_dir())

_MODULES = {
    "ImageClassifier": "api.image_classifier",
    "ImageSource": "data.image_source",
    "Prediction": "api.image_classifier",
    "Run": "api.run",
    "finetune": "api.finetuning",
    "load": "api.image_classifier",
    "open_run": "api.run",
}


def __getattr__(name: str) -> Any:
    if name == "compare":  # a package that is callable
        return import_module(f"{__name__}.compare")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
