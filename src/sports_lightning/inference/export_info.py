"""What an exported file says about itself, as JSON in its metadata."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from sports_lightning import __version__
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.errors import UserError
from sports_lightning.models.classifier import Classifier, ClassifierSpec
from sports_lightning.models.rejection import RejectionScore

KEY = "sports_lightning"  # of the JSON in the metadata of a file
FULL, NETWORK = "images of any size", "preprocessed images"  # what a file takes


@dataclass(frozen=True)
class ExportInfo:
    """The metadata of an exported file.

    Attributes:
        spec: fields of the `ClassifierSpec`: classes, preprocessing, fingerprint of the training images, temperature.
        takes: `FULL` or `NETWORK`.
        rejection: arguments of `RejectionScore` as lists, or None.
        set_calibration: see `Classifier.set_calibration`, as lists.
        metrics: the content of the run's `metrics.json`, with intervals; empty if it is not known.
        version: of this package, when the file was written.
    """

    spec: dict[str, Any]
    takes: str = FULL
    rejection: dict[str, Any] | None = None
    set_calibration: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    version: str = __version__

    @classmethod
    def of(cls, classifier: Classifier, metrics: dict[str, Any]) -> "ExportInfo":
        """Describe a classifier, for a file that takes images of any size."""
        rejection = _lists(classifier.rejection.tensors()) if classifier.rejection else None
        return cls(asdict(classifier.spec), FULL, rejection, _lists(classifier.set_calibration), metrics)

    def to_json(self) -> str:
        """The inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, source: str) -> "ExportInfo":
        """Read the metadata of a file.

        Raises:
            UserError: it is not what `export` wrote; `source` names the file.
        """
        try:
            info = cls(**json.loads(text))
            spec, _ = info.classifier_spec(), info.decisions()
            Preprocessing.from_dict(spec.preprocessing).transform()
            if info.takes not in (FULL, NETWORK) or not all(isinstance(name, str) for name in spec.classes):
                raise ValueError("unknown values")
        except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise UserError(f"{source} has damaged metadata; export the checkpoint again") from error
        return info

    def classifier_spec(self) -> ClassifierSpec:
        """The description of the classifier."""
        return ClassifierSpec(**self.spec)

    def decisions(self) -> tuple[RejectionScore | None, dict[str, Tensor]]:
        """`rejection` and `set_calibration` of the classifier."""
        score = None
        if self.rejection:
            knots, levels = (torch.tensor(self.rejection[name], dtype=torch.float32) for name in ("knots", "levels"))
            score = RejectionScore(knots, levels, int(self.rejection["images"]))
        sets = {name: torch.tensor(values, dtype=torch.float64) for name, values in self.set_calibration.items()}
        return score, sets


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in values.items()}
