"""Coverage of the 95 % intervals of a cross-validation's pooled accuracy, by simulation.

Two Gaussian classes in 10 dimensions, a nearest-mean classifier, five folds; a third of the groups have three copies,
which are right or wrong together. An interval is checked against two values: the mean accuracy of the five trained
models on new images, and the accuracy that the learning procedure has on average over training sets.

    python benchmarks/kfold_intervals.py
"""

import numpy as np
from scipy.stats import norm

from sports_lightning.evaluate.clustered_intervals import clustered_wilson
from sports_lightning.evaluate.intervals import wilson

REPEATS, FOLDS, DIMENSIONS, DISTANCE = 2000, 5, 10, 1.5


def simulate(images: int, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """(n,) correct, (n,) groups, and the mean true accuracy of the models."""
    mean = np.eye(DIMENSIONS)[0] * DISTANCE / 2
    labels = np.tile([0, 1], images // 2)
    points = draws.standard_normal((images, DIMENSIONS)) + np.where(labels[:, None], mean, -mean)
    copies = np.where(np.arange(images) % 3 == 0, 3, 1)
    fold, correct, truth = draws.permutation(images) % FOLDS, np.zeros(images, dtype=bool), []
    for k in range(FOLDS):
        train = fold != k
        means = [
            np.average(points[train & (labels == c)], axis=0, weights=copies[train & (labels == c)]) for c in (0, 1)
        ]
        normal, middle = means[1] - means[0], (means[1] + means[0]) / 2
        correct[fold == k] = (((points[fold == k] - middle) @ normal) > 0) == labels[fold == k]
        length = np.linalg.norm(normal)
        truth.append(np.mean([norm.cdf(sign * (sign * mean - middle) @ normal / length) for sign in (1, -1)]))
    return np.repeat(correct, copies), np.repeat(np.arange(images), copies), float(np.mean(truth))


def main() -> None:
    """Print the coverage for several numbers of images."""
    print("| groups | trained models | learning procedure | images as independent: trained models |")
    print("| --- | --- | --- | --- |")
    for images in (30, 60, 200, 1000):
        draws = np.random.default_rng(images)
        found = [simulate(images, draws) for _ in range(REPEATS)]
        average = np.mean([truth for *_, truth in found])
        intervals = [clustered_wilson(correct, groups) for correct, groups, _ in found]
        plain = [wilson(int(correct.sum()), len(correct)) for correct, _, _ in found]
        truths = [truth for *_, truth in found]
        shares = [
            np.mean([low <= truth <= high for (low, high), truth in zip(pairs, values, strict=True)])
            for pairs, values in ((intervals, truths), (intervals, [average] * REPEATS), (plain, truths))
        ]
        print(f"| {images} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
