"""The probabilities of all classes, and the features, of many images as arrays: `predictions.npz`."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from sports_lightning.data.dataset_index import Split
from sports_lightning.errors import UserError
from sports_lightning.inference.exported import AnyClassifier, ExportedModel
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.predictor import compute_outputs
from sports_lightning.models.classifier import Classifier
from sports_lightning.storage.files import write_bytes

FILE = "predictions.npz"


def compute_features(
    classifier: AnyClassifier, root: Path, split: Split, save: Sequence[str], inference: DictConfig
) -> Tensor | None:
    """The features (n, features) float32 of the images of `split`, if "features" is in `save`; None if not.

    This is a second pass over the images. With `inference.flip_tta`, they are the mean over an image and its mirror
    image. They are in memory at once, as the logits are.

    Raises:
        UserError: a model that timm cannot take apart before its last layer, or an exported file.
    """
    if "features" not in save:
        return None
    if isinstance(classifier, ExportedModel):
        raise UserError("save=[features]: an exported file has no features: pass the checkpoint")
    features, _ = halve_batch_on_out_of_memory(
        lambda settings: compute_outputs(Classifier.features, classifier, root, split, settings), inference
    )
    return features


def write_arrays(
    folder: Path,
    classes: Sequence[str],
    split: Split,
    save: Sequence[str],
    probabilities: Tensor,
    features: Tensor | None,
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `predictions.npz` into `folder`, or remove that of an earlier command if nothing is to be saved.

    Its arrays are `paths` (n,) and `classes` (classes,), text; of images with labels, `labels` (n,) int64 and `digests`
    (n,), text; `probabilities` (n, classes) float32; `features` (n, features) float32. `numpy.load` reads them without
    pickle.

    Args:
        folder: the run folder.
        classes: their names.
        split: paths of n images, and their labels, -1 where they are unknown.
        save: which of "probabilities" and "features" are to be written.
        probabilities: (n, classes).
        features: (n, features), or None.
        more: further arrays, by name.
    """
    if not save:
        (folder / FILE).unlink(missing_ok=True)
        return
    arrays: dict[str, np.ndarray] = {
        "paths": np.array(list(split.paths), dtype=np.str_),
        "classes": np.array(list(classes), dtype=np.str_),
    }
    labels = np.array(split.labels, dtype=np.int64)
    if (labels >= 0).all():
        arrays["labels"] = labels
        arrays["digests"] = np.array(list(split.digests), dtype=np.str_)
    if "probabilities" in save:
        arrays["probabilities"] = probabilities.float().numpy()
    if features is not None:
        arrays["features"] = features.numpy()
    content = io.BytesIO()
    np.savez(content, **arrays, **(more or {}))  # type: ignore[arg-type]
    write_bytes(folder / FILE, content.getbuffer())
