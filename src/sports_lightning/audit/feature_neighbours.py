"""Feature neighbours: pairs of images that a pretrained network finds similar.

They may be other crops of one photograph, other moments of one scene, or unrelated similar scenes. Those that show one
photograph by their geometry count as near copies; a person has to decide about the others.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from sports_lightning.audit.scan import DatasetScan
from sports_lightning.data.dataset_index import Split
from sports_lightning.inference.feature_cache import FeatureCache
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.predictor import evaluation_images
from sports_lightning.models.classifier import Classifier
from sports_lightning.split.crops import describer, verify
from sports_lightning.split.duplicates import DuplicatePair, first_of_each
from sports_lightning.split.hash_neighbours import find_neighbours, unit

_ALIKE = 0.85  # least cosine similarity of two images' centered features, chosen by inspecting pairs of 100 Sports
_TABLES = 64


@dataclass(frozen=True)
class ScanFeatures:
    """Features of the readable images of a scan; byte-identical files share them.

    Attributes:
        distinct: positions in the scan of the first file of each content.
        values: (distinct, features) float32, memory-mapped.
    """

    distinct: list[int]
    values: np.ndarray

    def row_of(self, scan: DatasetScan) -> np.ndarray:
        """(n,) int64, the row in `values` of each image of the scan; -1 for unreadable files."""
        rows = {scan.digests[i]: row for row, i in enumerate(self.distinct)}
        return np.array([-1 if why else rows[d] for d, why in zip(scan.digests, scan.problems, strict=True)])


def compute_scan_features(
    scan: DatasetScan, network: Classifier, inference: DictConfig, cache_dir: Path
) -> ScanFeatures:
    """The features of the images of a scan.

    Args:
        scan: the dataset scan.
        network: a classifier with trained weights; its head is not used.
        inference: `conf/inference/*.yaml`.
        cache_dir: `data.cache_dir`, where the features are cached.
    """
    digests = ["" if why else digest for digest, why in zip(scan.digests, scan.problems, strict=True)]
    distinct = list(first_of_each(digests).values())
    if not distinct:
        return ScanFeatures([], np.zeros((0, 1), np.float32))
    split = Split((scan.paths[i] for i in distinct), np.zeros(len(distinct)))
    store = FeatureCache(FrozenBackbone(), network, inference, cache_dir)
    images = evaluation_images(network, scan.root, split)
    return ScanFeatures(distinct, store.features(images, [digests[i] for i in distinct]).numpy())


def find_feature_neighbours(scan: DatasetScan, found_features: ScanFeatures) -> list[DuplicatePair]:
    """Pairs of distinct images with similar features that are not known duplicates.

    Pairs across splits come first, then pairs by decreasing similarity. Not every pair in a large cluster is found.
    """
    distinct, features = found_features.distinct, found_features.values
    if len(distinct) < 3:  # two centered vectors are always opposite
        return []
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


def verify_neighbours(scan: DatasetScan, neighbours: list[DuplicatePair]) -> tuple[DatasetScan, list[DuplicatePair]]:
    """The scan with the neighbours that show one photograph by their geometry among its pairs, and the other ones."""
    candidates = [(pair.first, pair.second, mirrored) for pair in neighbours for mirrored in (False, True)]
    verified = {
        (pair.first, pair.second): pair
        for pair in verify(candidates, describer(scan.root, scan.paths, scan.value_range))
    }
    others = [pair for pair in neighbours if (pair.first, pair.second) not in verified]
    return replace(scan, pairs=sorted([*scan.pairs, *verified.values()])), others
