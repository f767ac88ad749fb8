"""`model.onnx` and `network.onnx`: the classifier as an ONNX graph, by torch's exporter."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from sports_lightning.errors import UserError
from sports_lightning.inference.export_info import KEY, ExportInfo
from sports_lightning.models.pretrained import short_message
from sports_lightning.storage.files import write_bytes

_NOISY = ("torch.onnx", "onnxscript", "onnx_ir")


def to_onnx(program: ExportedProgram) -> Any:
    """The ONNX model (`onnx.ModelProto`) of a traced classifier.

    Raises:
        UserError: an operation that ONNX does not have.
    """
    names = ["probabilities", "score"][: len(program.graph_signature.user_outputs)]
    try:
        with _quiet():
            exported = torch.onnx.export(
                program, dynamo=True, input_names=["images"], output_names=names, external_data=False, verbose=False
            )
        assert exported is not None
        return exported.model_proto
    except Exception as error:  # the exporter raises a type of its own for each step
        raise UserError(f"format=onnx: the classifier cannot be converted to ONNX: {short_message(error)}") from error


def write_onnx(model: Any, info: ExportInfo, path: Path) -> None:
    """Write an ONNX model with its metadata, atomically."""
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=info.to_json())
    model.producer_name = "sports_lightning"
    write_bytes(path, model.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints its progress, and warns of its own deprecations."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
