"""A trained classifier for use from Python: predict, embed and evaluate with the numbers of the commands."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sports_lightning import CONF_DIR
from sports_lightning.api.image_inputs import ImageLike, ImageTransform, Inputs, as_sequence, check_depth
from sports_lightning.api.table import table
from sports_lightning.data.class_names import normalize
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.image_source import ClassFolder, ImageSource, check_labels
from sports_lightning.errors import UserError
from sports_lightning.evaluate.decisions import NONE_OF_THESE, DecisionSettings, decide
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.metrics import best_classes
from sports_lightning.inference.exported import AnyClassifier, ExportedModel, open_classifier
from sports_lightning.inference.predictor import Forward, run_batches
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.conv_bn_fusion import fusible_pairs


class Prediction(NamedTuple):
    """The most probable class of an image.

    Attributes:
        label: its name.
        probability: its softmax probability, 0 to 1.
        top: (name, probability) of the most probable classes, in descending order.
        score: rejection score, 0 to 1: the share of known images that look less like the known classes; None of a
            checkpoint without such a score.
        classes: the prediction set, the most probable class first; None without `coverage`.
    """

    label: str
    probability: float
    top: list[tuple[str, float]]
    score: float | None = None
    classes: list[str] | None = None


@dataclass(frozen=True)
class ClassifierEvaluation:
    """The outcome of `ImageClassifier.evaluate`.

    Attributes:
        values: logits, labels and everything that is computed from them.
    """

    values: Evaluation

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`loss`, `acc` and the other metrics of `metrics.json`; `ci95` holds the 95 % intervals by name."""
        return self.values.metrics()

    @cached_property
    def per_class(self) -> Any:
        """Count, precision, recall and F1 of each class, as in `per_class.csv`: a DataFrame, or a list of dicts."""
        return table(asdict(row) for row in self.values.per_class())

    @property
    def probabilities(self) -> np.ndarray:
        """(n, classes) float64."""
        return self.values.probabilities.numpy()

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.values.labels.numpy()

    @property
    def confusion(self) -> np.ndarray:
        """(classes, classes) int64: rows are labels, columns are predictions."""
        return self.values.confusion.numpy()


class ImageClassifier:
    """A trained classifier, see `load`.

    For the same device, precision, number of threads and batch size, the numbers are those of the commands `predict`
    and `evaluate`, bit for bit. Every forward pass is on a full batch (the last one is padded), so that a single image
    is predicted fastest with `batch_size=1`.

    Args:
        classifier: the network, or an exported file, with its classes and preprocessing.
        device: "auto", "cpu", "gpu", "cuda" or "mps".

    Attributes:
        transform: an image to the model's input, uint8 (3, height, width); for a DataLoader of your own.
    """

    def __init__(self, classifier: AnyClassifier, device: str = "auto") -> None:
        self.classifier, self.device = classifier, device
        of_decoded = classifier.transform if isinstance(classifier, ExportedModel) else None
        self.transform = ImageTransform(classifier.preprocessing, of_decoded)
        if isinstance(classifier, Classifier):
            fusible_pairs(classifier.net)  # now, since predictions may come from several threads

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the columns of `predict_proba`."""
        return list(self.classifier.spec.classes)

    def predict(
        self,
        images: Iterable[ImageLike],
        top_k: int = 5,
        batch_size: int = 32,
        reject: float | None = None,
        coverage: float | None = None,
        conformal: str = "lac",
    ) -> list[Prediction]:
        """Predict the class of each image.

        Args:
            images: see `transform`; any iterable of them.
            top_k: classes to list for each image.
            batch_size: images per forward pass.
            reject: the label of images with a lower score is "none of these"; about this share of known images is
                rejected, too. Between 0 and 1.
            coverage: share of known images whose prediction set contains their class, between 0 and 1.
            conformal: how the sets are built, see `sports_lightning.evaluate.conformal.nonconformity`.

        Raises:
            UserError: a file that cannot be read as an image; images of 16 or 32 bits whose brightness is not known; a
                checkpoint that cannot decide so.
            TypeError: a single image, or another type of image.
            ValueError: an array or tensor of another shape or dtype, or a number out of range.
        """
        if top_k < 1:
            raise ValueError(f"top_k={top_k} must be 1 or more")
        settings = DecisionSettings(reject, coverage, conformal)
        settings.check(self.classifier)
        logits = self._logits(images, batch_size).double()
        decisions = decide(self.classifier, logits, settings)
        probabilities = logits.softmax(dim=1)
        best = best_classes(probabilities, top_k)
        predictions = []
        for i, (values, labels) in enumerate(zip(probabilities.gather(1, best).tolist(), best.tolist(), strict=True)):
            pairs = [(self.classes[label], value) for value, label in zip(values, labels, strict=True)]
            is_rejected = decisions.rejected is not None and bool(decisions.rejected[i])
            score = None if decisions.scores is None else float(decisions.scores[i])
            chosen = None if decisions.sets is None else [self.classes[label] for label in decisions.sets[i]]
            predictions.append(
                Prediction(NONE_OF_THESE if is_rejected else pairs[0][0], pairs[0][1], pairs, score, chosen)
            )
        return predictions

    def predict_proba(self, images: Iterable[ImageLike], batch_size: int = 32) -> np.ndarray:
        """Softmax probabilities (n, classes) float64 of the images, see `predict`."""
        return self._logits(images, batch_size).double().softmax(dim=1).numpy()

    def embed(self, images: Iterable[ImageLike], batch_size: int = 32) -> np.ndarray:
        """Features (n, features) float32 of the images before the last layer, see `predict`.

        Raises:
            UserError: a model that timm cannot take apart before its last layer.
        """
        images = as_sequence(images)
        if not len(images):
            blank = np.zeros((1, 8, 8, 3), dtype=np.uint8)
            return self._run(Classifier.features, list(blank), 1).numpy()[:0]
        return self._run(Classifier.features, images, batch_size).numpy()

    def evaluate(self, data: str | Path | ImageSource, batch_size: int = 32) -> ClassifierEvaluation:
        """Evaluate the classifier on labeled images.

        Args:
            data: a folder with one sub-folder per class, such as `data/test`, or an `ImageSource`. Its classes are
                matched by name, in Unicode normal form C; the classifier may know more of them.
            batch_size: images per forward pass.

        Raises:
            UserError: a class that the classifier does not know, labels that do not fit the source, or no images.
        """
        source = ClassFolder(data) if isinstance(data, str | Path) else data
        position = {normalize(name): label for label, name in enumerate(self.classes)}
        if unknown := [name for name in source.classes if normalize(name) not in position]:
            raise UserError(f"the classifier does not know class {min(unknown)!r}; its classes are `.classes`")
        if not len(source):
            raise UserError("there are no images to evaluate")
        check_labels(source)
        labels = [position[normalize(source.classes[label])] for label in source.labels]
        root, names = (source.folder, source.paths) if isinstance(source, ClassFolder) else (Path(), None)
        split = Split(names or map(str, range(len(source))), labels)
        images = [root / name for name in names] if names else _SourceImages(source)
        logits = self._run(Classifier.forward, images, batch_size)
        value_range = self.transform.preprocessing.value_range
        return ClassifierEvaluation(Evaluation(root, split, self.classes, logits, value_range))

    def _logits(self, images: Iterable[ImageLike], batch_size: int) -> Tensor:
        """(n, classes) float32."""
        return self._run(Classifier.forward, as_sequence(images), batch_size).reshape(-1, len(self.classes))

    def _run(self, function: Forward, images: Sequence[ImageLike], batch_size: int) -> Tensor:
        if not len(images):
            return torch.empty(0)
        inference = inference_config(self.device, batch_size)
        check_depth(images, self.transform.preprocessing)
        if isinstance(self.classifier, ExportedModel):
            if function is Classifier.features:
                raise UserError("an exported file has no features: load the checkpoint")
            return self.classifier.logits_of(Inputs(images, self.transform).in_order(), inference)
        outputs: list[Tensor] = []
        with quiet_lightning():
            run_batches(
                function, self.classifier, Inputs(images, self.transform), inference, outputs.append, progress=False
            )
        return torch.cat(outputs)


def load(checkpoint: str | Path, device: str = "auto") -> ImageClassifier:
    """Load a classifier from a checkpoint that `train` wrote, or from a file that `export` wrote.

    Args:
        checkpoint: such as `RUN_FOLDER/checkpoints/best.ckpt`, the run folder, `model.onnx`, `network.onnx` or
            `openvino/model.xml`. No code in the file is run.
        device: "auto" (a GPU if available), "cpu", "gpu", "cuda" or "mps".

    Raises:
        UserError: no such file, or not a checkpoint of this package.
        ValueError: another device.
    """
    devices = ("auto", "cpu", "gpu", "cuda", "mps")
    if device not in devices:
        raise ValueError(f"device={device!r} is not one of {', '.join(devices)}")
    return ImageClassifier(open_classifier(checkpoint), device)


def inference_config(device: str, batch_size: int) -> DictConfig:
    """`conf/inference/default.yaml` with this device and batch size."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")
    cfg = OmegaConf.load(CONF_DIR / "inference" / "default.yaml")
    return OmegaConf.merge(cfg, {"accelerator": device, "batch_size": batch_size})  # type: ignore[return-value]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning says which devices it found each time it is used, and warns of settings that are chosen on purpose.

    It also turns an interruption by the keyboard into the end of the process, which is undone here.
    """
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = log.level
    log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", ".*LeafSpec")
        try:
            yield
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            log.setLevel(level)


class _SourceImages(Sequence[Any]):
    """The images of a source by position."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        return self.source.image(index)
