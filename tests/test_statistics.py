"""Intervals, calibration and comparisons against scikit-learn, scipy and statsmodels."""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from commands import run_command
from conftest import FAST
from sports_lightning.compare.significance import holm, mean_and_error, paired_difference
from sports_lightning.data.dataset_index import Split
from sports_lightning.evaluate.calibration import calibration_metrics, fit_temperature, reliability
from sports_lightning.evaluate.caveats import describe_caveats
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.intervals import bootstrap_mean, wilson
from sports_lightning.evaluate.metrics import (
    best_classes,
    compute_metrics,
    confusion_matrix,
    is_among_best,
    macro_intervals,
)
from sports_lightning.evaluate.tables import print_metrics, top5_columns, write_tables
from sports_lightning.models.classifier import load_classifier
from sports_lightning.storage.files import read_csv
from sports_lightning.train.refit_head import fit_linear


def evaluation_of(logits: torch.Tensor, labels: list[int]) -> Evaluation:
    classes = [f"class {i}" for i in range(logits.shape[1])]
    return Evaluation(Path(), Split([f"{i}.jpg" for i in range(len(labels))], labels), classes, logits)


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    num_classes, count = draw(st.integers(2, 12)), draw(st.integers(1, 60))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    labels = torch.randint(num_classes, (count,), generator=random)
    logits = torch.randn(count, num_classes, generator=random) * draw(st.sampled_from([0.3, 3.0, 20.0]))
    return evaluation_of(logits, labels.tolist())


@settings(max_examples=40)
@given(evaluations())
def test_metrics_equal_torchmetrics_and_scikit_learn(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics()
    labels, predicted = evaluation.split.labels, evaluation.predicted.tolist()
    every = range(len(evaluation.classes))
    probabilities = evaluation.probabilities.numpy()
    assert metrics["acc"] == pytest.approx(sk.accuracy_score(labels, predicted))
    scores = sk.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert [metrics[f"{name}_macro"] for name in ("precision", "recall", "f1")] == pytest.approx(scores[:3])
    # neither scikit-learn nor we clip probabilities; float32 logits against float64
    assert metrics["loss"] == pytest.approx(
        -np.log(probabilities[range(len(labels)), labels]).mean(), rel=1e-4, abs=1e-6
    )
    one_hot = np.eye(len(every))[labels]
    assert metrics["brier"] == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean())
    if len(every) > 2:
        expected = sk.top_k_accuracy_score(labels, probabilities, k=min(5, len(every)), labels=every)
        assert metrics["acc_top5"] == pytest.approx(expected)
        brier = sk.brier_score_loss(labels, probabilities, labels=list(every), scale_by_half=False)
        assert metrics["brier"] == pytest.approx(brier)
    expected = proportion_confint(round(metrics["acc"] * len(labels)), len(labels), method="wilson")
    assert metrics["ci95"]["acc"] == pytest.approx(expected)
    for name, (low, high) in metrics["ci95"].items():
        assert np.isnan(low) or low <= high
        assert len(labels) < 30 or name.endswith("macro") or low <= metrics[name] <= high


@given(st.integers(1, 2000), st.data())
def test_wilson_equals_statsmodels(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    assert wilson(successes, count) == pytest.approx(proportion_confint(successes, count, method="wilson"), abs=1e-9)


@settings(max_examples=40)
@given(evaluations())
def test_intervals_of_classes_equal_statsmodels(evaluation: Evaluation) -> None:
    labels, predicted = np.array(evaluation.split.labels), evaluation.predicted.numpy()
    for label, row in enumerate(evaluation.per_class()):
        correct = int(((labels == label) & (predicted == label)).sum())
        involved = int(((labels == label) | (predicted == label)).sum())
        if involved:
            share = np.array(proportion_confint(correct, involved, method="wilson"))
            assert (row.f1_low, row.f1_high) == pytest.approx(2 * share / (1 + share), abs=1e-9)
            assert row.f1 == pytest.approx(2 * (correct / involved) / (1 + correct / involved))
        if row.count:
            recall = proportion_confint(correct, row.count, method="wilson")
            assert (row.recall_low, row.recall_high) == pytest.approx(recall, abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_paired_difference_equals_mcnemar(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    result = paired_difference(first, second)
    both, neither = sum(a and b for a, b in pairs), sum(not a and not b for a, b in pairs)
    table = [[both, result.only_first], [result.only_second, neither]]
    assert result.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert result.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert result.low <= result.difference <= result.high


def test_the_interval_of_a_difference_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):  # only the first is correct in 0.3 of the cases, only the second in 0.05
        cell = random.choice(4, size=200, p=[0.3, 0.05, 0.5, 0.15])
        result = paired_difference(list((cell == 0) | (cell == 2)), list((cell == 1) | (cell == 2)))
        covered += result.low <= 0.25 <= result.high
    assert 365 <= covered <= 393  # 380 expected


@pytest.mark.parametrize("number", [4, 10])
def test_the_interval_of_a_difference_covers_it_with_few_groups_too(number: int) -> None:
    random = np.random.default_rng(number)
    groups = np.repeat(np.arange(number), 20)
    covered = 0
    for _ in range(400):  # each group is of one kind: both or neither right, or one of the two alone
        kinds = random.choice(4, size=number, p=[0.2, 0.2, 0.4, 0.2])[groups]
        result = paired_difference((kinds == 0) | (kinds == 2), (kinds == 1) | (kinds == 2), groups)
        covered += result.low <= 0 <= result.high
    assert covered >= 374  # 380 expected


def test_a_group_counts_once_where_all_differences_are_alike() -> None:
    groups = np.repeat(np.arange(4), 25)
    always = paired_difference(np.ones(100, bool), np.zeros(100, bool), groups)
    assert always.p_value == 0.125
    assert always.low < 0
    equal = paired_difference(np.ones(100, bool), np.ones(100, bool), groups)
    assert equal.high > paired_difference(np.ones(100, bool), np.ones(100, bool)).high
    one = paired_difference(np.ones(9, bool), np.zeros(9, bool), np.zeros(9, int))
    assert (one.low, one.high) == (-1, 1)


def test_equal_scores_have_one_rank_everywhere() -> None:
    logits = torch.randint(0, 3, (500, 12), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(500) % 12
    best = best_classes(logits, 5)
    assert torch.equal(best[:, 0], logits.argmax(dim=1))
    assert torch.equal(is_among_best(logits, labels, 5), (best == labels[:, None]).any(dim=1))
    found = compute_metrics(logits, labels)
    evaluation = Evaluation(Path(), Split([str(i) for i in range(500)], labels.tolist()), list("abcdefghijkl"), logits)
    assert found["acc"] == float(evaluation.is_correct.double().mean())
    _, rows = top5_columns(evaluation.probabilities, evaluation.classes)
    assert [row[0] for row in rows] == [evaluation.classes[label] for label in evaluation.predicted]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    with patch("gc.collect"):  # statsmodels calls it each time; once torch is imported, it takes a third of a second
        expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected)


def test_bootstrap_intervals_have_their_nominal_coverage() -> None:
    random = np.random.default_rng(0)
    covered = sum(low <= 1.0 <= high for low, high in (bootstrap_mean(random.exponential(size=100)) for _ in range(60)))
    assert covered >= 50  # 57 expected; fewer than 50 one time in 10,000
    right = 0
    for _ in range(60):
        labels = np.repeat(np.arange(4), 40)
        predicted = np.where(random.random(160) < 0.7, labels, random.integers(4, size=160))
        confusion = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(labels), 4)
        low, high = macro_intervals(confusion)["recall_macro"]
        right += low <= 0.775 <= high
    assert right >= 50


def test_the_standard_error_of_a_mean() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / np.sqrt(3)))
    assert np.isnan(mean_and_error([1.0])[1])


def test_temperature_makes_overconfident_logits_calibrated() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5000, 5, generator=random) * 2
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=random).flatten()
    assert fit_temperature(logits * 3, labels) == pytest.approx(3.0, rel=0.1)
    before = calibration_metrics((logits * 3).softmax(dim=1), labels)
    after = calibration_metrics((logits * 3 / fit_temperature(logits * 3, labels)).softmax(dim=1), labels)
    assert after["ece"] < 0.03 < before["ece"]
    assert after["brier"] < before["brier"]


def test_reliability_bins_contain_every_prediction() -> None:
    confidence = np.array([0.0, 0.05, 0.5, 0.99, 1.0])
    bins = reliability(confidence, np.array([False, False, True, True, True]))
    assert sum(b.images for b in bins) == 5
    assert (bins[-1].high, bins[-1].accuracy) == (1.0, 1.0)


@pytest.mark.slow
def test_a_fitted_temperature_and_head_are_used_by_every_later_command(few: Path, tmp_path: Path) -> None:
    overrides = [*FAST, f"data.root={few}", "logger=csv", "trainer.max_epochs=1"]
    fitted = {"plain": [], "calibrated": ["calibrate=true"], "refitted": ["calibrate=true", "refit=1e-3"]}
    for run, more in fitted.items():
        run_command("train", *overrides, *more, f"hydra.run.dir={run}")
    metrics = {run: json.loads((tmp_path / run / "metrics.json").read_text()) for run in fitted}
    assert metrics["calibrated"]["test"]["acc"] == metrics["plain"]["test"]["acc"], (
        "the order of the classes is unchanged"
    )
    assert metrics["calibrated"]["val"]["loss"] < metrics["plain"]["val"]["loss"]
    assert metrics["refitted"]["val"]["acc"] > metrics["plain"]["val"]["acc"] + 0.05, "15 batches leave a poor head"
    best = {run: load_classifier(tmp_path / run / "checkpoints/best.ckpt") for run in fitted}
    assert best["calibrated"].spec.temperature != 1.0
    before, after = (best[run].state_dict() for run in ("plain", "refitted"))
    assert {name for name in before if not before[name].equal(after[name])} == {
        "net.classifier.weight",
        "net.classifier.bias",
    }
    run_command("evaluate", "ckpt_path=refitted/checkpoints/best.ckpt", "hydra.run.dir=again")
    assert json.loads((tmp_path / "again/metrics.json").read_text())["test"] == metrics["refitted"]["test"]
    (tmp_path / "refitted/metrics.json").unlink()  # as if killed after the checkpoint was written
    run_command("train", "resume=refitted")
    assert json.loads((tmp_path / "refitted/metrics.json").read_text()) == metrics["refitted"]


def test_a_head_is_fitted_as_scikit_learn_does() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = 5 * (torch.randn(300, 8, generator=draws) + torch.randn(3, 8, generator=draws)[labels])
    scale = features.square().mean().sqrt()
    weights = torch.tensor([1.0, 2.0, 3.0])
    weight, bias = fit_linear(features, labels, weights, 1e-3)
    # scikit-learn sums the loss that we average, and halves the penalty.
    strength = 1 / (2 * 1e-3 * float(weights[labels].sum()))
    theirs = LogisticRegression(C=strength, class_weight=dict(enumerate(weights.tolist())), tol=1e-8, max_iter=1000)
    theirs.fit((features / scale).numpy(), labels.numpy())
    probabilities = (features @ weight.T + bias).softmax(dim=1)
    expected = torch.from_numpy(theirs.predict_proba((features / scale).numpy())).float()
    torch.testing.assert_close(probabilities, expected, atol=1e-3, rtol=0)


def test_flip_tta_averages_the_logits_of_both_images(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    checkpoint = f"ckpt_path={trained[0]}/checkpoints/best.ckpt"
    image = next((few / "test").rglob("*.jpg"))
    with Image.open(image) as opened:
        opened.save(tmp_path / "a.png")
        ImageOps.mirror(opened).save(tmp_path / "b.png")
    run_command("predict", checkpoint, f"input={tmp_path}", "inference.flip_tta=true", "hydra.run.dir=out")
    first, second = (tmp_path / "out/predictions.csv").read_text().splitlines()[1:3]
    numbers = [[float(cell) for cell in row.split(",")[2:12:2]] for row in (first, second)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-6), "an image and its mirror image have the same logits"


def test_classes_without_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = evaluation_of(torch.eye(4)[[0, 1, 3]], [0, 1, 1])
    metrics = {"test": evaluation.metrics()}
    assert metrics["test"]["classes_missing"] == ["class 2", "class 3"]
    assert metrics["test"]["recall_macro"] == pytest.approx((1 + 0.5 + 0) / 3), "class 3 is predicted, class 2 is not"
    print_metrics(metrics)
    assert "test has no images of class 2, class 3" in capsys.readouterr().out
    write_tables(evaluation, tmp_path)
    assert [row["count"] for row in read_csv(tmp_path / "per_class.csv")] == ["1", "2", "0", "0"]
    assert fit_temperature(torch.randn(50, 3), torch.ones(50, dtype=torch.int64)) > 0
    assert "classes_missing" not in evaluation_of(torch.eye(2), [0, 1]).metrics()
    everything = {"val": {"classes_missing": [str(i) for i in range(12)]}, "test": {}}
    assert describe_caveats(everything)[0].endswith("8, 9 and 2 more")
