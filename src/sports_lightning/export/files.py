"""The files of an export: each format's name, what it takes, and how it is written and opened again."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.export.int8 import quantize
from sports_lightning.export.onnx_file import to_onnx, write_onnx
from sports_lightning.export.openvino_file import write_openvino
from sports_lightning.export.timm_folder import write_timm
from sports_lightning.export.torch_file import export_program, write_torch
from sports_lightning.inference.export_info import NETWORK, ExportInfo
from sports_lightning.inference.exported import ExportedModel, Outputs, open_exported
from sports_lightning.models.classifier import Classifier

log = logging.getLogger(__name__)

_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_EXTRAS = {"onnx": "export", "openvino": "openvino"}


@dataclass(frozen=True)
class ExportedFile:
    """A file or folder of an export.

    Attributes:
        name: relative to the run folder.
        path: of the file or folder.
        is_rounded: whether its answers may differ by more than floating-point rounding.
        open: opens it as another program would.
    """

    name: str
    path: Path
    is_rounded: bool
    open: Callable[[], ExportedModel]

    @property
    def size(self) -> int:
        """Bytes, with all files that belong to it."""
        own = [self.path, self.path.with_suffix(".bin")]  # the weights of OpenVINO's files
        files = self.path.rglob("*") if self.path.is_dir() else own
        return sum(file.stat().st_size for file in files if file.is_file())


def check_packages(formats: Sequence[str], int8: bool) -> None:
    """Raise UserError if a package that a format needs is not installed."""
    for name in [*formats, *(["onnx"] if int8 else [])]:
        missing = [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(f"format={name} needs {' and '.join(missing)}: pip install -e '.[{_EXTRAS[name]}]'")


def write_files(
    classifier: Classifier, info: ExportInfo, formats: Sequence[str], int8: bool, index: DatasetIndex, folder: Path
) -> list[ExportedFile]:
    """Write a classifier in several formats.

    Args:
        classifier: trained.
        info: its metadata.
        formats: "onnx", "torch", "openvino" and "timm".
        int8: also write `model_int8.onnx`.
        index: with the split "train", if `int8`.
        folder: where the files are written.

    Raises:
        UserError: an architecture or a preprocessing that cannot be exported.
    """
    files = []
    program = export_program(classifier, any_size=True) if int8 or set(formats) - {"timm"} else None
    if "torch" in formats:
        assert program is not None
        path = folder / "model.pt2"
        write_torch(program, info, path)
        files.append(ExportedFile("model.pt2", path, False, lambda: _open_torch(path, info)))
    if int8 or {"onnx", "openvino"} & set(formats):
        assert program is not None
        files += _write_onnx_files(to_onnx(program), classifier, info, formats, int8, index, folder)
    if "timm" in formats:
        write_timm(classifier, folder / "timm")
        files.append(ExportedFile("timm", folder / "timm", False, lambda: _open_timm(folder / "timm", info)))
    return files


def _write_onnx_files(
    model: Any,
    classifier: Classifier,
    info: ExportInfo,
    formats: Sequence[str],
    int8: bool,
    index: DatasetIndex,
    folder: Path,
) -> list[ExportedFile]:
    files = []

    def add(name: str, is_rounded: bool = False) -> None:
        path = folder / name
        files.append(ExportedFile(name, path, is_rounded, lambda: open_exported(path)))

    if "onnx" in formats:
        write_onnx(model, info, folder / "model.onnx")
        network = to_onnx(export_program(classifier, any_size=False))
        write_onnx(network, replace(info, takes=NETWORK), folder / "network.onnx")
        add("model.onnx")
        add("network.onnx")
    if int8:
        without_metrics = replace(info, metrics={})  # which are those of the checkpoint, and parity.json has its own
        write_onnx(quantize(model, info, index), without_metrics, folder / "model_int8.onnx")
        add("model_int8.onnx", is_rounded=True)
    if "openvino" in formats:
        write_openvino(model, info, folder / "openvino" / "model.xml")
        add("openvino/model.xml")
    return files


def _open_torch(path: Path, info: ExportInfo) -> ExportedModel:
    return ExportedModel(info, torch_run(torch.export.load(path).module()))


def torch_run(module: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[np.ndarray], Outputs]:
    """A function of tensors as one of arrays."""

    def run(images: np.ndarray) -> Outputs:
        with torch.inference_mode():
            probabilities, *scores = module(torch.from_numpy(images))
        return probabilities.numpy(), scores[0].numpy() if scores else None

    return run


def _open_timm(folder: Path, info: ExportInfo) -> ExportedModel:
    net = timm.create_model(f"local-dir:{folder}", pretrained=True)
    spec = replace(info.classifier_spec(), temperature=1.0)
    classifier = Classifier(net, spec).eval()
    return ExportedModel(replace(info, takes=NETWORK), torch_run(lambda images: (classifier(images).softmax(dim=1),)))
