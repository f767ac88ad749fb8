"""Classifiers in files that `export` wrote, run by ONNX Runtime or OpenVINO."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.value_range import ValueRange
from sports_lightning.errors import UserError, import_extra
from sports_lightning.inference.export_info import FULL, KEY, ExportInfo
from sports_lightning.inference.input_files import InputFiles
from sports_lightning.models.classifier import Classifier, load_classifier
from sports_lightning.storage.files import checkpoint_file
from sports_lightning.storage.openvino import import_openvino
from sports_lightning.storage.parallel import usable_cores

Outputs = tuple[np.ndarray, np.ndarray | None]  # probabilities (n, classes) and scores (n,), float32
Run = Callable[[np.ndarray], Outputs]  # of a batch, uint8
Item = tuple[Tensor, bool]  # an image, and whether its file could be read

SUFFIXES = (".onnx", ".xml")
_VALUES = 3 * 2**22  # pixel values of a batch: a file that resizes images itself takes about 12 bytes for each
_UNCHANGED = {"precision": ("32-true", 32, "32"), "compile": (False,), "flip_tta": (False,)}


class ExportedModel:
    """A classifier in a file, for the functions that otherwise take a `Classifier`.

    Args:
        info: the metadata of the file.
        run: runs it.

    Attributes:
        spec, rejection, set_calibration: as those of a `Classifier`.
    """

    def __init__(self, info: ExportInfo, run: Run) -> None:
        self.info, self.run = info, run
        self.spec = info.classifier_spec()
        self.rejection, self.set_calibration = info.decisions()

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""
        return Preprocessing.from_dict(self.spec.preprocessing)

    def set_value_range(self, value_range: ValueRange | None) -> None:
        """Set the values of 16- and 32-bit pixels that are black and white."""
        self.spec = replace(self.spec, preprocessing=replace(self.preprocessing, value_range=value_range).to_dict())

    def set_crop_mode(self, crop_mode: str | None) -> None:
        """Look at images in another way than in training; None keeps it.

        Raises:
            UserError: the file preprocesses images itself.
        """
        if crop_mode and self.info.takes == FULL:
            raise UserError(
                f"data.crop_mode={crop_mode}: the file crops images itself: pass network.onnx or the checkpoint"
            )
        self.spec = replace(self.spec, preprocessing=self.preprocessing.changed(None, crop_mode).to_dict())

    def compute(self, root: Path, split: Split, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Probabilities (n, classes) float32 and rejection scores (n,) float32 of the images of a split, in order."""
        found = [self.run(batch) for batch in self.batches(root, split, batch_size)]
        probabilities = np.concatenate([probabilities for probabilities, _ in found])
        scores = [score for _, score in found if score is not None]
        return torch.from_numpy(probabilities), torch.from_numpy(np.concatenate(scores)) if scores else None

    def logits(self, root: Path, split: Split, inference: DictConfig) -> Tensor:
        """The logarithms of the probabilities, (n, classes) float32: logits of which the softmax is the probabilities.

        Raises:
            UserError: settings of `inference` that a file cannot follow.
        """
        _check_settings(inference)
        return _logarithms(self.compute(root, split, inference.batch_size)[0])

    def logits_of(self, images: Iterable[Tensor], inference: DictConfig) -> Tensor:
        """As `logits`, of images that are given by `transform`."""
        _check_settings(inference)
        batches = _runs(((image, True) for image in images), inference.batch_size)
        found = [self.run(_stacked(items))[0] for items in batches]
        return _logarithms(torch.from_numpy(np.concatenate(found)))

    def run_readable(self, files: InputFiles, inference: DictConfig, receive: Callable[[Tensor, Tensor], Any]) -> None:
        """Call `receive` with the logits of each batch of files, and which of them could be read (n,).

        Raises:
            UserError: settings of `inference` that a file cannot follow.
        """
        _check_settings(inference)
        progress = tqdm(total=len(files), desc="predicting", unit="img", delay=2, leave=False, disable=None)
        with progress:
            for items in _runs(files.items(self.transform), inference.batch_size):
                probabilities, _ = self.run(_stacked(items))
                receive(_logarithms(torch.from_numpy(probabilities)), torch.tensor([ok for _, ok in items]))
                progress.update(len(items))

    def batches(self, root: Path, split: Split, batch_size: int) -> Iterator[np.ndarray]:
        """The images as the file takes them, in order: as decoded, those of one size together, or preprocessed."""
        preprocessing = self.preprocessing
        files = open_images(root, split, preprocessing.least_side, None, Path(), preprocessing.value_range)
        images = ((self.transform(image), True) for image in files.many(range(len(split))))
        for items in _runs(images, batch_size):
            yield _stacked(items)

    @cached_property
    def transform(self) -> Callable[[Tensor], Tensor]:
        """What the file takes of a decoded image, uint8 (3, height, width)."""
        return _channels_last if self.info.takes == FULL else self.preprocessing.transform()


def _channels_last(image: Tensor) -> Tensor:
    return image.permute(1, 2, 0)


def _runs(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """Consecutive (image, …) of the same size, at most `batch_size` of them, and fewer of large images."""
    for shape, same in groupby(items, key=lambda item: item[0].shape):
        most = max(1, min(batch_size, _VALUES // max(1, shape.numel())))
        while batch := list(islice(same, most)):
            yield batch


def _stacked(items: Iterable[Item]) -> np.ndarray:
    """Images of one size as a batch."""
    return np.stack([image.numpy() for image, _ in items])


def _logarithms(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


def _check_settings(inference: DictConfig) -> None:
    """Raise UserError for settings that an exported file cannot follow."""
    for name, allowed in _UNCHANGED.items():
        if inference[name] not in allowed:
            raise UserError(f"inference.{name}={inference[name]} is for checkpoints: leave it out for exported files")
    if inference.accelerator not in ("auto", "cpu"):
        raise UserError(f"inference.accelerator={inference.accelerator}: exported files run on the CPU here")


AnyClassifier = Classifier | ExportedModel


def open_classifier(ckpt_path: str | Path) -> AnyClassifier:
    """Open a checkpoint, a run folder, or a file that `export` wrote, by its suffix.

    Raises:
        UserError: see `load_classifier` and `open_exported`.
    """
    return open_exported(ckpt_path) if str(ckpt_path).lower().endswith(SUFFIXES) else load_classifier(ckpt_path)


def open_exported(ckpt_path: str | Path) -> ExportedModel:
    """Open `model.onnx`, `model_int8.onnx`, `network.onnx` or `openvino/model.xml`.

    Raises:
        UserError: no such file, one that `export` did not write, a damaged one, or a missing package.
    """
    path = checkpoint_file(ckpt_path)
    return _open_onnx(path) if path.suffix.lower() == ".onnx" else _open_openvino(path)


def _open_onnx(path: Path) -> ExportedModel:
    onnxruntime = import_extra("onnxruntime", f"{path} needs onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    try:  # from bytes, so that the file cannot name others
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a type of its own for each kind of damage
        raise UserError(f"{path} is not an ONNX file that ONNX Runtime can open, or is damaged") from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    info = _read_info(text, path)

    def run(images: np.ndarray) -> Outputs:
        try:
            found = session.run(None, {"images": images})
        except Exception as error:  # as above
            raise UserError(f"{path} cannot be run: it takes other images than {info.takes}") from error
        return _checked(found, info, path)

    return ExportedModel(info, run)


def _open_openvino(path: Path) -> ExportedModel:
    openvino = import_openvino(f"{path} needs openvino")
    try:
        model = openvino.Core().read_model(path)
        text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise UserError(f"{path} is not a model that OpenVINO can open, or is damaged") from error
    info = _read_info(text, path)

    def run(images: np.ndarray) -> Outputs:
        try:
            found: Any = compiled(images)
        except RuntimeError as error:
            raise UserError(f"{path} cannot be run: it takes other images than {info.takes}") from error
        return _checked([found[i] for i in range(len(compiled.outputs))], info, path)

    return ExportedModel(info, run)


def _checked(found: list[Any], info: ExportInfo, path: Path) -> Outputs:
    """The outputs of a file, if there is a probability for each class."""
    probabilities, *scores = found
    if getattr(probabilities, "ndim", 0) != 2 or probabilities.shape[1] != len(info.classifier_spec().classes):
        raise UserError(f"{path} does not have the outputs that its metadata describe; export the checkpoint again")
    return probabilities, scores[0] if scores else None


def _read_info(text: str | None, path: Path) -> ExportInfo:
    if text is None:
        raise UserError(f"{path} was not written by python -m sports_lightning.export, so its classes are unknown")
    return ExportInfo.from_json(text, str(path))
