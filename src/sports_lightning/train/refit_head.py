"""Head refit: after training, fit the linear head to the trained backbone's features of the training images.

Training sees crops, in which objects look larger than in the whole images of evaluation. A head fitted to features of
whole images classifies those better (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). Moreover,
a few epochs of fine-tuning leave a linear layer far from the optimum for its features.
"""

import copy
import logging
from functools import partial

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.inference.feature_cache import FeatureCache
from sports_lightning.inference.frozen_part import FrozenBackbone, FrozenPart, find_frozen_part
from sports_lightning.inference.predictor import evaluation_images, run_batches
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.freezing import heads, set_trainable
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.train.losses import balanced_weights, class_weights

log = logging.getLogger(__name__)

_ITERATIONS = 100  # of L-BFGS, unless it converges earlier; torch allows 1.25 times as many evaluations


def check_head(classifier: Classifier) -> None:
    """Raise UserError for a model whose last layer cannot be fitted separately."""
    probe = copy.deepcopy(classifier)
    set_trainable(probe.net, OmegaConf.create({"mode": "head"}))
    head, *more = heads(probe.net)
    is_linear = isinstance(head, nn.Linear) and head.bias is not None and not more
    if not is_linear or not isinstance(find_frozen_part(probe), FrozenBackbone):
        raise UserError(
            f"refit needs a model that can be split before its last layer, and whose last layer is linear: "
            f"{probe.spec.architecture} is not one, leave refit out"
        )


def refit_head(
    classifier: Classifier, index: DatasetIndex, cfg: DictConfig, inference: DictConfig, frozen: FrozenPart | None
) -> None:
    """Replace the head's weights by those fitted to the images of `train`, preprocessed as in evaluation.

    The loss is plain cross-entropy, with the class weights of the run's sampling and loss. If the features are not
    finite, the head is not changed, with a warning. All features, (images, features) float32, are held in memory.

    Args:
        classifier: trained, see `check_head`.
        index: the images.
        cfg: `conf/train.yaml`.
        inference: how the backbone is run.
        frozen: the frozen part; the features of a frozen backbone are cached on disk for other runs.
    """
    train = index.splits["train"]
    images = partial(evaluation_images, classifier, index.root, data=cfg.data, pool=index.pool)
    # The head is fitted to features of the original images, even if evaluation also averages over flipped images.
    inference = OmegaConf.merge(inference, {"flip_tta": False})  # type: ignore[assignment]
    if isinstance(frozen, FrozenBackbone):
        cache = FeatureCache(frozen, classifier, inference, resolve_cache_dir(cfg.data))
        features = cache.split_features(train, index.pool, images).tensor()
    else:
        batches: list[Tensor] = []
        run_batches(Classifier.features, classifier, images(train), inference, batches.append)
        features = torch.cat(batches)
    counts = index.class_counts("train")
    weights = class_weights(cfg.loss.class_weights, index.classes, counts)
    weights = torch.ones(len(counts)) if weights is None else weights
    if cfg.data.balanced_sampling:
        weights = weights * balanced_weights(counts)
    weight, bias = fit_linear(features, torch.tensor(train.labels), weights, cfg.refit)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        log.warning("refit: the features or their fit are not finite; the head is left as trained")
        return
    (head,) = heads(classifier.net)
    head.load_state_dict({"weight": weight, "bias": bias})


def fit_linear(features: Tensor, labels: Tensor, weights: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: the weight (classes, features) and bias (classes,) of a linear layer.

    Minimizes the mean cross-entropy plus `penalty` times the squared norm of the weight, for features scaled to a mean
    square of one, by at most 100 iterations of torch's L-BFGS with line search, from zero.

    Args:
        features: (n, features) float32.
        labels: (n,) int64.
        weights: (classes,) of the cross-entropy.
        penalty: L2; above 0, since separable classes have no optimum without it.
    """
    scale = features.square().mean().sqrt()
    features = features / scale
    weight = torch.zeros(len(weights), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(weights), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weight.T + bias, labels, weights) + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    log.info("head refitted to %s images: loss %.4f", f"{len(labels):,}", loss().item())
    return (weight / scale).detach(), bias.detach()
