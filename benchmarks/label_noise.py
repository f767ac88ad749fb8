"""Planted wrong labels: how many does the audit find, beside cleanlab on the same features?

    python benchmarks/label_noise.py ROOT model=efficientnet_lite0 [model.weights=FILE] [--seeds 0 1]

Labels of `train` are changed at random ("symmetric"), or to the class that looks most alike ("pairs"): the one that a
classifier trained with the original labels gives the most probability, in both directions together. Each rate and
seed is planted separately. cleanlab (`pip install cleanlab`) gets the out-of-fold probabilities of the first round.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from scipy.special import softmax

from sports_lightning import CONF_DIR
from sports_lightning.audit.feature_neighbours import compute_scan_features
from sports_lightning.audit.label_errors import (
    FOLDS,
    _out_of_fold_logits,
    _temperature,
    find_similar,
    judge_by_features,
)
from sports_lightning.audit.scan import scan_dataset
from sports_lightning.data.source import list_dataset
from sports_lightning.models.classifier import build_classifier
from sports_lightning.split.assignment import assign_folds
from sports_lightning.split.groups import join_groups
from sports_lightning.storage.disk_cache import resolve_cache_dir

CONDITIONS = (("none", 0.0), ("symmetric", 0.05), ("symmetric", 0.2), ("pairs", 0.05), ("pairs", 0.2))
Flags = dict[str, tuple[np.ndarray, np.ndarray]]  # method → flagged and score


def read_features(root: Path, overrides: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Features, labels and groups of near copies of the training images, and the names of the classes."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("audit", ["data=folder", f"data.root={root}", *overrides])
    scan = scan_dataset(list_dataset(cfg.data), resolve_cache_dir(cfg.data))
    network = build_classifier(cfg.model, ["its head", "is not used"], root)
    features = compute_scan_features(scan, network, cfg.inference, resolve_cache_dir(cfg.data))
    train = np.flatnonzero(np.array(scan.splits) == "train")
    names = sorted(set(scan.labels))
    labels = np.searchsorted(names, scan.labels)
    groups = join_groups(len(labels), ((pair.first, pair.second) for pair in scan.pairs))
    return features.values[features.row_of(scan)[train]], labels[train], groups[train], names


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """The probabilities (n, classes) of the first round of `judge_by_features`."""
    folds = assign_folds(labels, groups, FOLDS, classes, np.random.default_rng(0))
    logits = _out_of_fold_logits(features, labels, folds, np.ones(len(labels), bool), classes)
    return softmax(logits / _temperature(logits, labels), axis=1)


def plant(labels: np.ndarray, kind: str, rate: float, seed: int, alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a share is wrong, and which ones are."""
    draws, planted = np.random.default_rng(seed), labels.copy()
    chosen = draws.permutation(len(labels))[: round(rate * len(labels))]
    if kind == "symmetric":
        planted[chosen] = (labels[chosen] + draws.integers(1, len(alike), len(chosen))) % len(alike)
    else:
        planted[chosen] = alike[labels[chosen]]
    return planted, planted != labels


def own(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, near: np.ndarray, classes: int) -> Flags:
    judgement = judge_by_features(features, labels, groups, classes)
    for_label, for_suggested = (
        (labels[near] == wanted[:, None]).mean(axis=1) for wanted in (labels, judgement.suggested)
    )
    scores = np.array([judgement.score(i, for_label[i], for_suggested[i]) for i in range(len(labels))])
    return {"own": (scores >= judgement.threshold, scores)}


def cleanlab(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, near: np.ndarray, classes: int) -> Flags:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = out_of_fold(features, labels, groups, classes)
    scores = 1 - get_label_quality_scores(labels, probabilities, method="self_confidence")
    return {
        f"cleanlab, {name}": (find_label_issues(labels, probabilities, filter_by=name, n_jobs=1), scores)
        for name in ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning")
    }


def average_precision(scores: np.ndarray, wrong: np.ndarray) -> float:
    hits = wrong[np.argsort(-scores, kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean()) if hits.any() else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    features, labels, groups, names = read_features(options.root, options.overrides)
    near = find_similar(features, groups, np.arange(len(labels)))
    probabilities = out_of_fold(features, labels, groups, len(names))
    print(f"{len(labels):,} images, out-of-fold accuracy {(probabilities.argmax(axis=1) == labels).mean():.4f}")
    confusion = np.stack([probabilities[labels == label].sum(axis=0) for label in range(len(names))])
    confusion += confusion.T
    np.fill_diagonal(confusion, 0)
    alike = confusion.argmax(axis=1)
    print("pairs:", "; ".join(f"{name} → {names[other]}" for name, other in zip(names, alike, strict=True)))
    print("noise      rate  seed  method                          per 1000  precision  recall  F1     AP      seconds")
    for kind, rate in CONDITIONS:
        for seed in options.seeds if rate else options.seeds[:1]:
            planted, wrong = plant(labels, kind, rate, seed, alike)
            methods: list[Callable[..., Flags]] = [own, cleanlab]
            for method in methods:
                started = time.perf_counter()
                found = method(features, planted, groups, near, len(names))
                seconds = time.perf_counter() - started
                for name, (flagged, scores) in found.items():
                    hits, count = (flagged & wrong).sum(), flagged.sum()
                    precision, recall = hits / max(count, 1), hits / max(wrong.sum(), 1)
                    f1 = 2 * hits / max(count + wrong.sum(), 1)
                    print(
                        f"{kind:10} {rate:4}  {seed:4}  {name:30}  {1000 * count / len(labels):8.1f}  {precision:9.3f}"
                        f"  {recall:6.3f}  {f1:.3f}  {average_precision(scores, wrong):.4f}  {seconds:7.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
