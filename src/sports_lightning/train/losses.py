"""The loss that is optimized. Reported metrics are of plain cross-entropy, whatever the training loss."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from sports_lightning.data.image_folder import normalize
from sports_lightning.errors import UserError


def loss_function(loss: DictConfig, classes: list[str], class_counts: list[int]) -> nn.Module:
    """Build the training loss of `conf/loss/*.yaml`.

    Args:
        loss: the config of the loss.
        classes: names of the classes, in the order of the logits.
        class_counts: number of training images of each class.

    Raises:
        UserError: `class_weights` does not match the classes, or a function that gives no loss of a batch.
    """
    weights = class_weights(loss.class_weights, classes, class_counts)
    function = instantiate(loss.function) if weights is None else instantiate(loss.function, weight=weights)
    _try(function, len(classes))
    return function


def _try(function: nn.Module, classes: int) -> None:
    """Raise UserError if a copy of the function gives no loss of a batch."""
    try:
        value = copy.deepcopy(function)(torch.zeros(2, classes), torch.arange(2) % classes)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"loss.function gives no loss: {error}") from error
    if value.ndim:
        raise UserError(f"loss.function gives {value.numel()} values for a batch, and training needs their mean")


def class_weights(given: Any, classes: list[str], class_counts: list[int]) -> Tensor | None:
    """The weight of each class in the training loss, (classes,) float32; None: no weights.

    Args:
        given: `loss.class_weights`: None, "balanced", weights by class name (1 where a class is not named), or one
            weight per class.
        classes: names of the classes, in the order of the logits.
        class_counts: number of training images of each class.

    Raises:
        UserError: `given` does not match the classes.
    """
    if given is None:
        return None
    if given == "balanced":
        return balanced_weights(class_counts)
    weights: Any = OmegaConf.to_container(given, resolve=True)
    if isinstance(weights, Mapping):
        by_name = {normalize(str(name)): weight for name, weight in weights.items()}
        if unknown := sorted(by_name.keys() - set(map(normalize, classes))):
            raise UserError(
                f"loss.class_weights names {', '.join(unknown)}, which the data does not have: "
                f"the classes are {', '.join(classes)}"
            )
        return _not_all_zero([by_name.get(normalize(name), 1.0) for name in classes])
    if len(weights) != len(classes):
        raise UserError(
            f"loss.class_weights has {len(weights)} weights for {len(classes)} classes: give one for each class, in "
            f"alphabetical order of the classes, or {{CLASS: WEIGHT}}"
        )
    return _not_all_zero(weights)


def _not_all_zero(weights: list[float]) -> Tensor:
    if not any(weights):
        raise UserError("loss.class_weights are all 0: give at least one class a larger weight")
    return torch.tensor(weights, dtype=torch.float32)


def balanced_weights(class_counts: list[int]) -> Tensor:
    """Return n / (classes · count) for each class, as scikit-learn's `class_weight="balanced"`; (classes,) float32."""
    counts = torch.tensor(class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)
