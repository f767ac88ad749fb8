"""The loss that is optimised. The metrics quote plain cross-entropy whatever stands here (see metrics)."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn


def loss_function(loss: DictConfig, class_counts: list[int]) -> nn.Module:
    """`conf/loss/*.yaml` as a module."""
    if loss.class_weights is None:
        return instantiate(loss.function)
    return instantiate(loss.function, weight=balanced_weights(class_counts))


def balanced_weights(class_counts: list[int]) -> Tensor:
    """n / (classes · count) of each class, as scikit-learn has it; (classes,) float32."""
    counts = torch.tensor(class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)
