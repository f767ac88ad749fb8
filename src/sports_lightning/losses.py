"""The loss that is optimised. The figures quote plain cross-entropy whatever stands here (see metrics)."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn


def loss_function(loss: DictConfig, class_counts: list[int]) -> nn.Module:
    """`conf/loss/*.yaml` as a module."""
    weights = class_weights(loss, class_counts)
    return instantiate(loss.function) if weights is None else instantiate(loss.function, weight=weights)


def class_weights(loss: DictConfig, class_counts: list[int]) -> Tensor | None:
    """(classes,) float32; "balanced" ones are n / (classes · count), as scikit-learn has it."""
    if loss.class_weights is None:
        return None
    counts = torch.tensor(class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)
