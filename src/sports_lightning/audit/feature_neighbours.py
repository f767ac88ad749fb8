"""Pictures that show much the same, but not pixel for pixel: neighbours among a pretrained network's features.

Other cuts of one photograph, other moments of one scene, or just a scene of the same kind: for the eye to judge.
"""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from sports_lightning.audit.duplicates import Pair, first_of_each
from sports_lightning.audit.hash_neighbours import find_alike, unit
from sports_lightning.audit.scan import Survey
from sports_lightning.data.image_folder import Split
from sports_lightning.inference.feature_cache import FeatureStore
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.predictor import evaluation_pictures
from sports_lightning.models.classifier import Classifier

_ALIKE = 0.85  # cosine between two pictures' features, the mean of all taken off; chosen by eye on 100 Sports
_TABLES = 64


def find_look_alikes(survey: Survey, network: Classifier, inference: DictConfig, cache_dir: Path) -> list[Pair]:
    """Pairs of distinct pictures that the network finds alike and that are not known to be the same.

    Those in two splits come first, the closest of them before the others. Of a group of hundreds that are all alike not
    every pair is found.

    Args:
        survey: the pictures.
        network: with trained weights; what counts is what comes before its head.
        inference: `conf/inference/*.yaml`, how it is run.
        cache_dir: where the features are kept.
    """
    digests = ["" if why else digest for digest, why in zip(survey.digests, survey.problems, strict=True)]
    distinct = list(first_of_each(digests).values())
    if len(distinct) < 3:  # two would be opposites, seen from their mean
        return []
    split = Split((survey.paths[i] for i in distinct), np.zeros(len(distinct)))
    store = FeatureStore(FrozenBackbone(), network, inference, cache_dir)
    pictures = evaluation_pictures(network, survey.root, split)
    features = store.features(pictures, [digests[i] for i in distinct]).numpy()
    features = unit(features - features.mean(axis=0))
    rows, others = find_alike(features, features, len(features), _ALIKE, _TABLES, np.random.default_rng(0))
    known = {(pair.first, pair.second) for pair in survey.pairs}
    found = {
        (distinct[a], distinct[b]): float(features[a] @ features[b])
        for a, b in zip(np.minimum(rows, others), np.maximum(rows, others), strict=True)
    }
    pairs = [Pair(*pair, round(cosine, 4), False) for pair, cosine in found.items() if pair not in known]
    splits = survey.splits
    return sorted(pairs, key=lambda pair: (splits[pair.first] == splits[pair.second], -pair.similarity, pair))
