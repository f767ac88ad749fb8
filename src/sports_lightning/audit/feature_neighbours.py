"""Feature neighbours: pairs of images that a pretrained network finds similar.

They may be other crops of one photograph, other moments of one scene, or unrelated similar scenes. A person has to
decide.
"""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from sports_lightning.audit.scan import DatasetScan
from sports_lightning.data.dataset_index import Split
from sports_lightning.inference.feature_cache import FeatureCache
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.predictor import evaluation_images
from sports_lightning.models.classifier import Classifier
from sports_lightning.split.duplicates import DuplicatePair, first_of_each
from sports_lightning.split.hash_neighbours import find_neighbours, unit

_ALIKE = 0.85  # least cosine similarity of two images' centered features, chosen by inspecting pairs of 100 Sports
_TABLES = 64


def find_feature_neighbours(
    scan: DatasetScan, network: Classifier, inference: DictConfig, cache_dir: Path
) -> list[DuplicatePair]:
    """Pairs of distinct images with similar features that are not known duplicates.

    Pairs across splits come first, then pairs by decreasing similarity. Not every pair in a large cluster is found.

    Args:
        scan: the dataset scan.
        network: a classifier with trained weights; its head is not used.
        inference: `conf/inference/*.yaml`.
        cache_dir: `data.cache_dir`, where the features are cached.
    """
    digests = ["" if why else digest for digest, why in zip(scan.digests, scan.problems, strict=True)]
    distinct = list(first_of_each(digests).values())
    if len(distinct) < 3:  # two centered vectors are always opposite
        return []
    split = Split((scan.paths[i] for i in distinct), np.zeros(len(distinct)))
    store = FeatureCache(FrozenBackbone(), network, inference, cache_dir)
    images = evaluation_images(network, scan.root, split)
    features = store.features(images, [digests[i] for i in distinct]).numpy()
    features = unit(features - features.mean(axis=0))
    rows, others = find_neighbours(features, features, len(features), _ALIKE, _TABLES, np.random.default_rng(0))
    known = {(pair.first, pair.second) for pair in scan.pairs}
    found = {
        (distinct[a], distinct[b]): float(features[a] @ features[b])
        for a, b in zip(np.minimum(rows, others), np.maximum(rows, others), strict=True)
    }
    pairs = [DuplicatePair(*pair, round(cosine, 4), False) for pair, cosine in found.items() if pair not in known]
    splits = scan.splits
    return sorted(pairs, key=lambda pair: (splits[pair.first] == splits[pair.second], -pair.similarity, pair))
