"""Images whose label may be wrong, by a classifier that was trained without them and by their neighbours.

The classifier is linear discriminant analysis with a shrunk covariance, on features of a pretrained network: it is
computed in closed form, and less disturbed by wrong labels than logistic regression (figures in docs/log). Its
out-of-fold logits are scaled by a temperature (Guo et al. 2017) that is fitted to the labels. The suspects of a first
round are left out when the classifier is fitted again, as in confident learning (Northcutt et al. 2021).

An image is a suspect if the odds of another class against its label, times the odds that a label is wrong at all, are
high. The latter are estimated from the first round, so that few images are suspects where few labels are wrong.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from sports_lightning.split.assignment import assign_folds
from sports_lightning.split.hash_neighbours import unit

FOLDS = 5
NEIGHBOURS = 10
_SHRINKAGE = 0.2  # of the covariance towards a multiple of the identity
_FIRST_ROUND = 3.0  # log odds above which a label is left out of the second fit, and counts as wrong in the prior; or
_OF_MEDIAN = 0.5  # of the median log odds for the labels that a classifier confirms: many errors make it less confident
_CONFIDENT = 8.0  # log odds above which only their logarithm counts, since a classifier may be confidently wrong
_VOTE = 4.0  # log odds that the neighbours count for, if all of them have the same label
_POSTERIOR = 4.0  # log odds of a suspect, with the prior; all of these were chosen with planted errors in 100 Sports
_LEAST_PRIOR = 0.005  # of an image being a suspect
_AT_ONCE = 2**26  # similarities in memory


@dataclass(frozen=True)
class Judgement:
    """What is known of the labels of n images.

    Attributes:
        suggested: (n,) int64, the most probable class other than the label.
        label_probability, suggested_probability: (n,) float64; NaN for images that were not judged.
        odds: (n,) float64, log odds of the suggested class against the label; -inf for images that were not judged.
        left_out: share of the images that the first round found suspicious.
    """

    suggested: np.ndarray
    label_probability: np.ndarray
    suggested_probability: np.ndarray
    odds: np.ndarray
    left_out: float

    @property
    def threshold(self) -> float:
        """The least score of a suspect."""
        prior = min(max(self.left_out, _LEAST_PRIOR), 0.5)
        return float(_POSTERIOR + np.log((1 - prior) / prior))

    @property
    def candidates(self) -> np.ndarray:
        """Positions of the images that are suspects if their neighbours support that."""
        return np.flatnonzero(self.odds > self.threshold - _VOTE)

    def score(self, image: int, for_label: float, for_suggested: float) -> float:
        """Log odds that the label of an image is wrong, up to the prior.

        Args:
            image: its position.
            for_label, for_suggested: shares of its neighbours with its label and with the suggested one.
        """
        odds = min(self.odds[image], _CONFIDENT) + np.log1p(max(self.odds[image] - _CONFIDENT, 0))
        return float(odds + _VOTE * (for_suggested - for_label))

    def spread(self, count: int, places: np.ndarray) -> "Judgement":
        """The judgement of `count` images, of which those at `places` were judged."""
        spread = Judgement.nothing(count)
        for name in ("suggested", "label_probability", "suggested_probability", "odds"):
            getattr(spread, name)[places] = getattr(self, name)
        return replace(spread, left_out=self.left_out)

    @classmethod
    def nothing(cls, count: int) -> "Judgement":
        """The judgement of images that were not judged."""
        unknown = np.full(count, np.nan)
        return cls(np.zeros(count, np.int64), unknown, unknown.copy(), np.full(count, -np.inf), 0.0)


def judge_by_features(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int) -> Judgement:
    """Judge labels by features; linear in the number of images, whose logits (n, classes) are in memory.

    Args:
        features: (n, d) float32.
        labels: (n,) int64.
        groups: (n,) int64; near copies are in the same group, and a classifier is trained with all or none of a group.
        classes: number of classes.
    """
    folds = assign_folds(labels, groups, FOLDS, classes, np.random.default_rng(0))
    everything = np.ones(len(labels), dtype=bool)
    first = judge_by_logits(_out_of_fold_logits(features, labels, folds, everything, classes), labels)
    rest = first.odds <= _first_round(first.odds)
    return judge_by_logits(_out_of_fold_logits(features, labels, folds, rest, classes), labels, rest)


def judge_by_logits(logits: np.ndarray, labels: np.ndarray, trusted: np.ndarray | None = None) -> Judgement:
    """Judge labels by the logits of classifiers that were trained without the image.

    Args:
        logits: (n, classes), -inf for a class that the classifier does not know; log probabilities will do.
        labels: (n,) int64.
        trusted: (n,) bool, the labels that the temperature is fitted to; None: those that are not suspicious.
    """
    rows = np.arange(len(labels))
    known = np.isfinite(logits[rows, labels])
    if not known.any():
        return Judgement.nothing(len(labels))
    chosen = known if trusted is None else known & trusted
    with np.errstate(invalid="ignore"):  # images that no classifier knows anything about, left out below
        scaled = log_softmax(logits / _temperature(logits[chosen], labels[chosen]), axis=1)
    of_label = scaled[rows, labels]
    others = scaled
    others[rows, labels] = -np.inf
    suggested = others.argmax(axis=1)
    of_suggested = others[rows, suggested]
    odds = np.where(known, np.maximum(of_suggested, -1e3) - np.where(known, of_label, 0), -np.inf)
    left_out = float((odds > _first_round(odds)).mean() if trusted is None else 1 - trusted.mean())
    of_label, of_suggested = (np.where(known, np.exp(value), np.nan) for value in (of_label, of_suggested))
    return Judgement(suggested, of_label, of_suggested, odds, left_out)


def _first_round(odds: np.ndarray) -> float:
    """The log odds above which a label is suspicious in the first round."""
    confirmed = odds[np.isfinite(odds) & (odds < 0)]
    return float(min(_FIRST_ROUND, -_OF_MEDIAN * np.median(confirmed))) if len(confirmed) else _FIRST_ROUND


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The divisor of logits (n, classes) that minimizes the cross-entropy."""
    rows = np.arange(len(labels))

    def cross_entropy(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-3, 5), method="bounded").x))


def _out_of_fold_logits(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, used: np.ndarray, classes: int
) -> np.ndarray:
    """Logits (n, classes) float32 of linear discriminant analysis, fitted to the images of the other folds.

    Args:
        features: (n, d) float32.
        labels: (n,) int64.
        folds: (n,) of each image.
        used: (n,) bool, the images that classifiers are fitted to.
        classes: number of classes.
    """
    center = features.mean(axis=0)
    size = features.shape[1]
    sums, counts = np.zeros((FOLDS, classes, size)), np.zeros((FOLDS, classes))
    products = np.zeros((FOLDS, size, size), np.float32)
    for fold in range(FOLDS):
        rows = np.flatnonzero((folds == fold) & used)
        centered = features[rows] - center
        np.add.at(sums[fold], labels[rows], centered)
        counts[fold] = np.bincount(labels[rows], minlength=classes)
        products[fold] = centered.T @ centered
    logits = np.full((len(labels), classes), -np.inf, np.float32)
    for fold in range(FOLDS):
        count = counts.sum(axis=0) - counts[fold]
        present = np.flatnonzero(count)
        if not len(present):
            continue
        count = count[present]
        means = (sums.sum(axis=0) - sums[fold])[present] / count[:, None]
        covariance = (products.sum(axis=0) - products[fold] - (means.T * count) @ means) / count.sum()
        covariance *= 1 - _SHRINKAGE
        covariance += (_SHRINKAGE * np.trace(covariance) / (1 - _SHRINKAGE) / size + 1e-9) * np.eye(size)
        weights = np.linalg.solve(covariance, means.T)  # (d, classes)
        bias = np.log(count / count.sum()) - 0.5 * (means.T * weights).sum(axis=0)
        rows = np.flatnonzero(folds == fold)
        logits[np.ix_(rows, present)] = (features[rows] - center) @ weights + bias
    return logits


def find_similar(features: np.ndarray, groups: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The most similar images of other groups, the most similar first: (m, neighbours) positions, -1 for none.

    Args:
        features: (n, d) float32.
        groups: (n,) int64, near copies are in the same group.
        images: (m,) positions of the images whose neighbours are wanted.
    """
    center = features.mean(axis=0)
    directions = unit(features - center)
    count = min(NEIGHBOURS, len(features) - 1)
    found = np.empty((len(images), count), dtype=np.int64)
    for part in np.array_split(np.arange(len(images)), len(images) * len(features) // _AT_ONCE + 1):
        similarity = directions[images[part]] @ directions.T
        similarity[groups[images[part], None] == groups] = -2
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarity, nearest, axis=1), axis=1)
        nearest = np.take_along_axis(nearest, order, axis=1)
        found[part] = np.where(np.take_along_axis(similarity, nearest, axis=1) < -1, -1, nearest)
    return found
