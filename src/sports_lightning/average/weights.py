"""The weights of several classifiers, read and averaged."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sports_lightning.errors import UserError
from sports_lightning.models.classifier import Classifier, load_classifier

log = logging.getLogger(__name__)

# Parts of a classifier's spec that must be equal, and how an error names them.
_SHARED = {
    "architecture": "are of different architectures",
    "arguments": "have different model.arguments",
    "classes": "have different classes",
    "preprocessing": "prepare images differently",
    "trained_on": "were trained on different images, so that one may know the validation images of another",
}


def load_alike(paths: Sequence[Path]) -> list[Classifier]:
    """Load classifiers whose weights can be averaged.

    Raises:
        UserError: no checkpoint, one given twice, or two that differ in more than their weights.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("ckpt_path names a checkpoint twice: pass different ones")
    classifiers = [load_classifier(path) for path in paths]
    first = classifiers[0].spec
    for path, classifier in zip(paths[1:], classifiers[1:], strict=True):
        for name, difference in _SHARED.items():
            if getattr(classifier.spec, name) != getattr(first, name):
                raise UserError(f"{paths[0]} and {path} {difference}: pass checkpoints of one model and dataset")
    if not first.trained_on:
        log.warning("%s does not tell its training images: make sure that all are of the same split", paths[0])
    return classifiers


def average(classifiers: Sequence[Classifier], shares: Sequence[float]) -> Classifier:
    """A classifier whose weights are the weighted mean of those of others.

    Sums are computed in float64. Statistics of BatchNorm are averaged like weights; counters are those of the first
    classifier. Temperature, rejection score and prediction sets are not set, since they belong to other weights.

    Args:
        classifiers: as `load_alike` returns them.
        shares: one per classifier; their sum is 1. A classifier with a share of 0 is not used.
    """
    used = [(classifier.state_dict(), share) for classifier, share in zip(classifiers, shares, strict=True) if share]

    def mean(name: str, first: Tensor) -> Tensor:
        if not first.is_floating_point():
            return first
        total = sum(share * state[name].double() for state, share in used)
        return torch.as_tensor(total).to(first.dtype)

    averaged = copy.deepcopy(classifiers[0])
    averaged.load_state_dict({name: mean(name, first) for name, first in used[0][0].items()})
    averaged.spec = replace(averaged.spec, temperature=1.0)
    averaged.rejection, averaged.set_calibration = None, {}
    return averaged
