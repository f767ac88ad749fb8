"""Rejection scores compared: which tells images of unknown classes from those of known ones?

    python benchmarks/rejection.py ROOT CKPT [--far FOLDER …] [--classes 90 10 2] [--seeds 0 1 2]

ROOT is a dataset with train/, valid/ and test/; CKPT a checkpoint trained on it, whose features are used. For each seed
that many classes are drawn as the known ones, and a linear head is fitted to their training images. Ten others are
"near": their images are unknown, and so are those below each FOLDER ("far"; noise is always added). Prints the AUROC
against the known test images, and the share of unknown images that pass at a threshold that 95 % of the known ones
pass (FPR95), both as means over the seeds, with the 95 % bootstrap interval over images of the first seed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import cholesky, solve_triangular
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

import sports_lightning as sl
from sports_lightning.models.rejection import known_class_evidence
from sports_lightning.train.refit_head import fit_linear

NEAR = 10
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # features and logits to scores, higher for known images


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def covariance_factor(centered: np.ndarray) -> np.ndarray:
    """The Cholesky factor of the covariance, shrunk by 2 % towards a multiple of the identity."""
    covariance = centered.T @ centered / len(centered)
    shrunk = 0.98 * covariance + 0.02 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return cholesky(shrunk, lower=True)


def mahalanobis(features: np.ndarray, labels: np.ndarray, relative: bool) -> Score:
    """Of L2-normalized features (Mueller and Hein 2025), minus that to the mean of all images if `relative`."""
    points = unit(features).astype(np.float64)
    center = points.mean(axis=0)
    points = points - center
    means = np.stack([points[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    within, total = covariance_factor(points - means[labels]), covariance_factor(points)
    white_means = solve_triangular(within, means.T, lower=True).T

    def score(new: np.ndarray, _: np.ndarray) -> np.ndarray:
        points = (unit(new) - center).T
        white = solve_triangular(within, points, lower=True).T
        squares = (white**2).sum(axis=1)[:, None] - 2 * white @ white_means.T + (white_means**2).sum(axis=1)
        background = (solve_triangular(total, points, lower=True) ** 2).sum(axis=0) if relative else 0
        return background - squares.min(axis=1)

    return score


def nearest_neighbour(features: np.ndarray, neighbour: int = 10) -> Score:
    """Similarity of the tenth nearest training image (Sun et al. 2022)."""
    known = unit(features)

    def score(new: np.ndarray, _: np.ndarray) -> np.ndarray:
        parts = np.array_split(unit(new), len(new) // 256 + 1)
        return np.concatenate([np.partition(part @ known.T, -neighbour, axis=1)[:, -neighbour] for part in parts])

    return score


def virtual_logit(features: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Score:
    """ViM (Wang et al. 2022): energy, less the norm of the features outside of their principal space."""
    origin = -np.linalg.pinv(weight) @ bias
    size = 1000 if features.shape[1] >= 2048 else features.shape[1] * 2 // 5
    centered = features - origin
    residual = np.linalg.eigh(centered.T @ centered)[1][:, :-size]
    logits = features @ weight.T + bias
    scale = logits.max(axis=1).sum() / np.linalg.norm(centered @ residual, axis=1).sum()
    return lambda new, logits: logsumexp(logits, axis=1) - scale * np.linalg.norm((new - origin) @ residual, axis=1)


def candidates(features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> dict[str, Score]:
    return {
        "max probability": lambda _, logits: softmax(logits, axis=1).max(axis=1),
        "energy": lambda _, logits: logsumexp(logits, axis=1),
        "GEN": lambda _, logits: known_class_evidence(torch.from_numpy(logits).double()).numpy(),
        "Mahalanobis++": mahalanobis(features, labels, relative=False),
        "relative Mahalanobis++": mahalanobis(features, labels, relative=True),
        "kNN": nearest_neighbour(features),
        "ViM": virtual_logit(features, weight, bias),
    }


def separation(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float]:
    """AUROC and FPR95."""
    is_known = np.repeat([1, 0], [len(known), len(unknown)])
    auroc = roc_auc_score(is_known, np.concatenate([known, unknown]))
    return float(auroc), float((unknown >= np.quantile(known, 0.05)).mean())


def interval(known: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """(2, 2): 95 % percentile bootstrap intervals of AUROC and FPR95."""
    draws = np.random.default_rng(0)
    found = [separation(draws.choice(known, len(known)), draws.choice(unknown, len(unknown))) for _ in range(500)]
    return np.quantile(found, [0.025, 0.975], axis=0).T


def embed(checkpoint: Path, root: Path, far: list[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split or far folder: features and labels}."""
    model = sl.load(checkpoint)
    files = {split: sorted((root / split).glob("*/*")) for split in ("train", "valid", "test")}
    found = {
        name: (model.embed(paths), np.array([model.classes.index(path.parent.name) for path in paths]))
        for name, paths in files.items()
    }
    noise = [_noise(np.random.default_rng(i)) for i in range(150)]
    unknown = {"noise": noise} | {
        folder.name: sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
        for folder in far
    }
    return found | {name: (model.embed(images), np.full(len(images), -1)) for name, images in unknown.items()}


def _noise(draws: np.random.Generator) -> np.ndarray:
    """uint8 (224, 224, 3): random pixels in blocks of 1, 4, 16, or 56 pixels."""
    block = int(draws.choice([1, 4, 16, 56]))
    return draws.integers(0, 256, (224 // block, 224 // block, 3), dtype=np.uint8).repeat(block, 0).repeat(block, 1)


def scores_of(
    data: dict[str, tuple[np.ndarray, np.ndarray]], count: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """{score: {set of images: values}} with `count` known classes."""
    order = np.random.default_rng(seed).permutation(data["train"][1].max() + 1)
    known, near = order[:count], order[count : count + NEAR]
    renamed = {label: i for i, label in enumerate(known)}
    features, labels = data["train"]
    rows = np.isin(labels, known)
    features, labels = features[rows], np.array([renamed[label] for label in labels[rows]])
    weight, bias = (
        values.numpy()
        for values in fit_linear(torch.from_numpy(features), torch.from_numpy(labels), torch.ones(count), 1e-3)
    )
    sets = {"known": data["test"][0][np.isin(data["test"][1], known)]}
    splits = [data[split] for split in ("train", "valid", "test")]
    sets["near"] = np.concatenate([values[np.isin(labels, near)] for values, labels in splits])
    sets |= {name: values for name, (values, labels) in data.items() if labels[0] < 0}
    return {
        name: {of: score(values, values @ weight.T + bias) for of, values in sets.items()}
        for name, score in candidates(features, labels, weight, bias).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--far", type=Path, nargs="*", default=[])
    parser.add_argument("--classes", type=int, nargs="+", default=[90, 10, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    data = embed(options.checkpoint, options.root, options.far)
    for count in options.classes:
        runs = [scores_of(data, count, seed) for seed in options.seeds]
        unknown = [name for name in runs[0]["GEN"] if name != "known"]
        print(f"{count} known classes: AUROC (interval), FPR95 (interval) of {', '.join(unknown)}")
        for name, first in runs[0].items():
            cells = []
            for of in unknown:
                mean = np.mean([separation(run[name]["known"], run[name][of]) for run in runs], axis=0)
                low_high = interval(first["known"], first[of])
                cells += [f"{m:.3f} ({low:.3f}–{high:.3f})" for m, (low, high) in zip(mean, low_high, strict=True)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
