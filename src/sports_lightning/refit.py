"""The head, fitted anew once training is done, to what the finished backbone makes of the training pictures.

Training sees crops, in which objects look larger than in the whole pictures that are evaluated, and a classifier of the
features of whole pictures is better at those (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
Besides, the few epochs that a backbone takes leave a linear layer far from the best one for its features.
"""

import copy
import logging
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from sports_lightning.classifier import Classifier
from sports_lightning.data.index import Index
from sports_lightning.errors import UserError
from sports_lightning.finetune import head_parameters, heads
from sports_lightning.frozen import FrozenBackbone, find_frozen_part
from sports_lightning.inference import evaluation_pictures, run_over
from sports_lightning.losses import class_weights

log = logging.getLogger(__name__)

_ITERATIONS = 100  # of L-BFGS


def check_head(classifier: Classifier) -> None:
    """Raise UserError for a model whose last layer can't be fitted apart from the rest."""
    probe = copy.deepcopy(classifier)
    learning = head_parameters(probe.net)
    for parameter in probe.parameters():
        parameter.requires_grad_(parameter in learning)
    is_linear = [isinstance(head, nn.Linear) for head in heads(probe.net)]
    if is_linear != [True] or not isinstance(find_frozen_part(probe), FrozenBackbone):
        raise UserError(f"refit needs a model that ends in a linear layer, and {probe.spec.architecture} does not")


def refit_head(classifier: Classifier, index: Index, cfg: DictConfig) -> None:
    """Replace the head's weights by those that suit the pictures of `train`, preprocessed as in evaluation.

    Features of all pictures are in memory at once: (pictures, features) float32.

    Args:
        classifier: trained, see `check_head`; its temperature goes back to 1.
        index: the pictures.
        cfg: `conf/train.yaml`: `refit`, `inference` and the loss's class weights.
    """
    train = index.splits["train"]
    batches: list[Tensor] = []
    pictures = evaluation_pictures(classifier, index.root, train)
    # Mirror images besides bring nothing, even where evaluation averages over them.
    inference: Any = OmegaConf.merge(cfg.inference, {"mirror": False})
    run_over(Classifier.features, classifier, pictures, inference, batches.append)
    counts = index.class_counts("train")
    weights = class_weights(cfg.loss, counts)
    weight, bias = fit_linear(torch.cat(batches), torch.tensor(train.labels), len(counts), cfg.refit, weights)
    (head,) = heads(classifier.net)
    state = {"weight": weight} if head.bias is None else {"weight": weight, "bias": bias}
    head.load_state_dict(state)


def fit_linear(
    features: Tensor, labels: Tensor, num_classes: int, penalty: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: the weight (classes, features) and bias (classes,) of a linear layer.

    The mean cross-entropy, plus `penalty` times the squared norm of the weight for features of a mean square of one, by
    L-BFGS (torch's, with line search) from zero.

    Args:
        features: (n, features) float32.
        labels: (n,) int64.
        num_classes: of the layer.
        penalty: L2; larger than 0, else separable classes have no best weight.
        weights: (classes,) of the cross-entropy.
    """
    scale = features.square().mean().sqrt()
    features = features / scale
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weight.T + bias, labels, weights) + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    log.info("head fitted anew to %s pictures: loss %.4f", f"{len(labels):,}", loss().item())
    return (weight / scale).detach(), bias.detach()
