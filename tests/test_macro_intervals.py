"""Coverage of the 95 % intervals of the macro averages, by simulation."""

import numpy as np
import pytest
import torch

from sports_lightning.evaluate.metrics import class_scores, macro_intervals

CLASSES, PER_CLASS, REPEATS = 4, 40, 200


@pytest.mark.parametrize("accuracies", [(0.7, 0.7, 0.7, 0.7), (0.9, 0.8, 0.6, 0.4)])
def test_intervals_of_macro_averages_have_their_nominal_coverage(accuracies: tuple[float, ...]) -> None:
    rows = np.full((CLASSES, CLASSES), 0.0)
    for label, accuracy in enumerate(accuracies):
        rows[label] = (1 - accuracy) / (CLASSES - 1)
        rows[label, label] = accuracy
    # With equally many images per class, the expected confusion matrix gives the true scores.
    scores = class_scores(torch.from_numpy(np.round(1e6 * rows)).long())
    names = ("precision_macro", "recall_macro", "f1_macro")
    truth = {name: float(values.mean()) for name, values in zip(names, scores, strict=True)}
    draws = np.random.default_rng(0)
    covered = dict.fromkeys(truth, 0)
    for _ in range(REPEATS):
        confusion = torch.from_numpy(np.stack([draws.multinomial(PER_CLASS, row) for row in rows]))
        for name, (low, high) in macro_intervals(confusion).items():
            covered[name] += low <= truth[name] <= high
    for name, count in covered.items():
        assert 0.90 <= count / REPEATS <= 0.99, f"{name}: {count} of {REPEATS}"
