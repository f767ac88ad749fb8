"""The loss that is optimised. The figures quote plain cross-entropy whatever stands here (see metrics)."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn


def loss_function(loss: DictConfig, class_counts: list[int]) -> nn.Module:
    """`conf/loss/*.yaml` as a module; "balanced" class weights are n / (classes · count), as scikit-learn has it."""
    if loss.class_weights is None:
        return instantiate(loss.function)
    counts = torch.tensor(class_counts, dtype=torch.float32)
    return instantiate(loss.function, weight=counts.sum() / (len(counts) * counts))
