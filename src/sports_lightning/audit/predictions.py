"""Predictions of earlier runs for the images of a scan, by which their labels are judged."""

import logging
from pathlib import Path

import numpy as np

from sports_lightning.audit.scan import DatasetScan
from sports_lightning.errors import UserError
from sports_lightning.runs.provenance import read_provenance
from sports_lightning.storage.files import DAMAGED

log = logging.getLogger(__name__)

_FILE = "predictions.npz"


def read_log_probabilities(folder: Path, scan: DatasetScan, classes: list[str]) -> np.ndarray:
    """The log probabilities (n, classes) float64 of the images of a scan; -inf for images without a prediction.

    Args:
        folder: of a sweep=kfold, or of a run of evaluate with save=[probabilities].
        scan: the dataset scan.
        classes: names of the classes of the scan.

    Raises:
        UserError: there is no such file; it has no probabilities, other classes or other images; or they are those of
            the training images, which the classifier has seen.
    """
    try:
        with np.load(folder / _FILE, allow_pickle=False) as arrays:
            paths, names, probabilities = (arrays[name] for name in ("paths", "classes", "probabilities"))
            digests = arrays["digests"].tolist() if "digests" in arrays else [""] * len(paths)  # of earlier versions
        is_of_training = read_provenance(folder)["predictions"] == "train"
    except (*DAMAGED, AssertionError) as error:
        raise UserError(
            f"predictions={folder} holds no {_FILE} with probabilities of a known split: pass the folder of a "
            f"sweep=kfold, or of an evaluate with save=[probabilities]"
        ) from error
    if is_of_training:
        raise UserError(
            f"predictions={folder} are of training images, whose labels the classifier has seen: pass the folder of a "
            f"sweep=kfold"
        )
    position = {name: i for i, name in enumerate(names.tolist())}
    if missing := [name for name in classes if name not in position]:
        raise UserError(f"predictions={folder} are of other classes: they lack {missing[0]!r}")
    row_of = {path: row for row, path in enumerate(paths.tolist())}
    rows = np.array([row_of.get(path, -1) for path in scan.paths])
    changed = [row >= 0 and digests[row] not in ("", digest) for row, digest in zip(rows, scan.digests, strict=True)]
    rows[changed] = -1
    if (rows < 0).all():
        raise UserError(f"predictions={folder} are of other images than data.root={scan.root}")
    if any(changed):
        log.warning("%d images have changed since they were predicted: their labels are not judged", sum(changed))
    found = np.full((len(rows), len(classes)), -np.inf)
    chosen = probabilities[rows[rows >= 0]][:, [position[name] for name in classes]]
    found[rows >= 0] = np.log(np.maximum(chosen, 1e-9))
    return found
