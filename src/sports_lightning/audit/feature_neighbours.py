"""Images that show much the same, but not pixel for pixel: neighbours among a pretrained network's features.

Other cuts of one photograph, other moments of one scene, or just a scene of the same kind: for the eye to judge.
"""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from sports_lightning.audit.duplicates import DuplicatePair, first_of_each
from sports_lightning.audit.hash_neighbours import find_neighbours, unit
from sports_lightning.audit.scan import DatasetScan
from sports_lightning.data.image_folder import Split
from sports_lightning.inference.feature_cache import FeatureCache
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.predictor import evaluation_images
from sports_lightning.models.classifier import Classifier

_ALIKE = 0.85  # cosine between two images' features, the mean of all taken off; chosen by eye on 100 Sports
_TABLES = 64


def find_feature_neighbours(
    survey: DatasetScan, network: Classifier, inference: DictConfig, cache_dir: Path
) -> list[DuplicatePair]:
    """Pairs of distinct images that the network finds alike and that are not known to be the same.

    Those in two splits come first, the closest of them before the others. Of a group of hundreds that are all alike not
    every pair is found.

    Args:
        survey: the images.
        network: with trained weights; what counts is what comes before its head.
        inference: `conf/inference/*.yaml`, how it is run.
        cache_dir: where the features are kept.
    """
    digests = ["" if why else digest for digest, why in zip(survey.digests, survey.problems, strict=True)]
    distinct = list(first_of_each(digests).values())
    if len(distinct) < 3:  # two would be opposites, seen from their mean
        return []
    split = Split((survey.paths[i] for i in distinct), np.zeros(len(distinct)))
    store = FeatureCache(FrozenBackbone(), network, inference, cache_dir)
    images = evaluation_images(network, survey.root, split)
    features = store.features(images, [digests[i] for i in distinct]).numpy()
    features = unit(features - features.mean(axis=0))
    rows, others = find_neighbours(features, features, len(features), _ALIKE, _TABLES, np.random.default_rng(0))
    known = {(pair.first, pair.second) for pair in survey.pairs}
    found = {
        (distinct[a], distinct[b]): float(features[a] @ features[b])
        for a, b in zip(np.minimum(rows, others), np.maximum(rows, others), strict=True)
    }
    pairs = [DuplicatePair(*pair, round(cosine, 4), False) for pair, cosine in found.items() if pair not in known]
    splits = survey.splits
    return sorted(pairs, key=lambda pair: (splits[pair.first] == splits[pair.second], -pair.similarity, pair))
