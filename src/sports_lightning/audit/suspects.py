"""Suspects: images whose label may be wrong, by classifiers and neighbours, or as copies with two labels."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sports_lightning.audit.feature_neighbours import ScanFeatures
from sports_lightning.audit.label_errors import Judgement, find_similar, judge_by_features, judge_by_logits
from sports_lightning.audit.scan import DatasetScan
from sports_lightning.split.groups import join_groups

_PROBABLE = 0.9  # a label whose near copies under other labels do not count


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong.

    Attributes:
        image: its position in the scan.
        suggested: the class that it may be of.
        score: log odds that the label is wrong, up to a constant; infinite for copies with two labels.
        label_probability, suggested_probability: by a classifier that was trained without it; NaN if there is none.
        neighbours: positions of the most similar images, the most similar first.
        copies: positions of copies with other labels.
    """

    image: int
    suggested: str
    score: float
    label_probability: float
    suggested_probability: float
    neighbours: list[int]
    copies: list[int]


@dataclass(frozen=True)
class LabelCheck:
    """The suspects of a scan, the most suspicious first.

    Attributes:
        suspects: at most one for each image.
        groups: (n,) int64 of all images: near copies are in the same group.
        judged: number of images that were judged by a classifier.
    """

    suspects: list[Suspect]
    groups: np.ndarray
    judged: int


def check_labels(
    scan: DatasetScan,
    given_groups: np.ndarray | None = None,
    features: ScanFeatures | None = None,
    log_probabilities: np.ndarray | None = None,
) -> LabelCheck:
    """Find the images of all splits whose label may be wrong.

    Args:
        scan: the dataset scan.
        given_groups: (n,) int64 of images that belong together (a scene, player or video), or None.
        features: by which images are compared, and judged if there are no probabilities; or None.
        log_probabilities: (n, classes) of classifiers that were trained without the image, in the order of
            `class_names`; or None.
    """
    names = class_names(scan)
    labels = np.searchsorted(names, scan.labels)
    groups = join_groups(len(labels), ((pair.first, pair.second) for pair in scan.pairs), given_groups)
    rows = features.row_of(scan) if features else np.full(len(labels), -1)
    judgement = _judge(labels, groups, rows, len(names), features, log_probabilities)
    copies = _find_copies(scan)
    candidates = sorted({*judgement.candidates.tolist(), *copies.others})
    similar = _similar_images(features, rows, groups, candidates)
    found = []
    for image in candidates:
        near = similar.get(image, [])
        for_label, for_suggested = 0.0, 1.0  # without neighbours, the classifier alone decides
        if near:
            for_label, for_suggested = (
                float(np.mean(labels[near] == label)) for label in (labels[image], judgement.suggested[image])
            )
        score = judgement.score(image, for_label, for_suggested)
        suggested = names[judgement.suggested[image]]
        others = copies.others.get(image, [])
        if others and _may_be_wrong(image, others, scan, judgement):
            score, suggested = np.inf, copies.suggested[image]
        if score >= judgement.threshold:
            of_label, of_suggested = judgement.label_probability[image], judgement.suggested_probability[image]
            found.append(Suspect(image, suggested, score, float(of_label), float(of_suggested), near, others))
    found.sort(key=lambda suspect: (-suspect.score, -judgement.odds[suspect.image], suspect.image))
    return LabelCheck(found, groups, int(np.isfinite(judgement.odds).sum()))


def class_names(scan: DatasetScan) -> list[str]:
    """The classes with images, in alphabetical order."""
    return sorted(set(scan.labels))


def _judge(
    labels: np.ndarray,
    groups: np.ndarray,
    rows: np.ndarray,
    classes: int,
    features: ScanFeatures | None,
    log_probabilities: np.ndarray | None,
) -> Judgement:
    """The judgement of all images of a scan; unreadable files are not judged."""
    if log_probabilities is not None:
        return judge_by_logits(log_probabilities, labels)
    readable = np.flatnonzero(rows >= 0)
    if features is None or classes < 2 or len(readable) < 2:
        return Judgement.nothing(len(labels))
    judged = judge_by_features(features.values[rows[readable]], labels[readable], groups[readable], classes)
    return judged.spread(len(labels), readable)


@dataclass(frozen=True)
class _Copies:
    """Copies with several labels, as positions in the scan.

    Attributes:
        others: {image: its copies that have other labels}, of images whose label is not that of most of their copies.
        suggested: {image: the most common other label among its copies}.
    """

    others: dict[int, list[int]]
    suggested: dict[int, str]


def _find_copies(scan: DatasetScan) -> _Copies:
    groups = join_groups(len(scan.paths), ((pair.first, pair.second) for pair in scan.pairs))
    votes: dict[int, Counter[str]] = {}
    for image in {image for pair in scan.pairs for image in (pair.first, pair.second)}:
        votes.setdefault(groups[image], Counter())[scan.labels[image]] += 1
    found = _Copies({}, {})
    for pair in scan.pairs:
        for image, other in ((pair.first, pair.second), (pair.second, pair.first)):
            own = scan.labels[image]
            if own == scan.labels[other]:
                continue
            counts = votes[groups[image]]
            suggested, most = max(((label, n) for label, n in counts.items() if label != own), key=lambda vote: vote[1])
            if counts[own] <= most:
                found.others.setdefault(image, []).append(other)
                found.suggested[image] = suggested
    return found


def _may_be_wrong(image: int, others: list[int], scan: DatasetScan, judgement: Judgement) -> bool:
    """Whether a copy with two labels is a suspect: not if its own label is the more probable one, as far as known.

    Two near copies may also be different images with one background, whose labels are both probable.
    """
    own = judgement.label_probability[image]
    is_identical = any(scan.digests[image] == scan.digests[other] for other in others)
    is_better = any(own > judgement.label_probability[other] for other in others)
    return not is_better and (is_identical or not own > _PROBABLE)


def _similar_images(
    features: ScanFeatures | None, rows: np.ndarray, groups: np.ndarray, images: list[int]
) -> dict[int, list[int]]:
    """{image: the most similar ones of other groups} for the images that have features."""
    if features is None or len(features.distinct) < 2:
        return {}
    wanted = [image for image in images if rows[image] >= 0]
    distinct = np.array(features.distinct)
    nearest = find_similar(features.values, groups[distinct], rows[wanted])
    return {image: distinct[found[found >= 0]].tolist() for image, found in zip(wanted, nearest, strict=True)}
