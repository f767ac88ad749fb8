"""`model.pt2`: the classifier as a program of `torch.export`."""

import io
import warnings
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from sports_lightning.errors import UserError
from sports_lightning.export.scored_classifier import ScoredClassifier
from sports_lightning.inference.export_info import KEY, ExportInfo
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.pretrained import short_message
from sports_lightning.storage.files import write_bytes

_EXAMPLE = (2, 231, 300)  # images, height and width that the program is traced with


def export_program(classifier: Classifier, any_size: bool) -> ExportedProgram:
    """Trace a classifier for any number of images, of any size if `any_size` (see `ScoredClassifier`).

    Raises:
        UserError: torch.export cannot trace this architecture or its preprocessing.
    """
    module = ScoredClassifier(classifier, any_size).eval()
    count, height, width = _EXAMPLE
    shape = (count, height, width, 3) if any_size else (count, 3, *classifier.preprocessing.size)
    sizes = {0: Dim("n", min=1)} | ({1: Dim("height", min=1), 2: Dim("width", min=1)} if any_size else {})
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            images = torch.zeros(shape, dtype=torch.uint8)
            return torch.export.export(module, (images,), dynamic_shapes={"images": sizes})
    except Exception as error:  # the code of a model, and the tracer, may raise anything
        raise UserError(f"{classifier.spec.architecture} cannot be exported: {short_message(error)}") from error


def write_torch(program: ExportedProgram, info: ExportInfo, path: Path) -> None:
    """Write a program and its metadata, atomically."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={f"{KEY}.json": info.to_json()})
    write_bytes(path, content.getbuffer())
