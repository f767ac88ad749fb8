"""Rejection scores, "none of these" and prediction sets; the sets are judged by crepes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from crepes import ConformalClassifier
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import sports_lightning as sl
from commands import run_command, try_command
from sports_lightning.errors import UserError
from sports_lightning.evaluate.conformal import METHODS, calibrate_sets, nonconformity, prediction_sets, set_metrics
from sports_lightning.evaluate.decisions import NONE_OF_THESE
from sports_lightning.models.classifier import load_classifier, save_classifier
from sports_lightning.models.rejection import RejectionScore, known_class_evidence


def draw(count: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibrated probabilities (n, classes) float64, and labels drawn from them."""
    random = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(count, classes, generator=random)).double().softmax(dim=1)
    return probabilities, torch.multinomial(probabilities, 1, generator=random).flatten()


@settings(max_examples=20)
@given(st.integers(40, 300), st.integers(2, 12), st.sampled_from(METHODS), st.sampled_from([0.5, 0.9, 0.95]))
def test_sets_equal_those_of_crepes(count: int, classes: int, method: str, coverage: float) -> None:
    assume(((count + 1) * coverage) % 1 > 1e-6)  # else crepes compares 0.1 with the slightly smaller 1 - 0.9
    probabilities, labels = draw(count, classes, count)
    new, _ = draw(50, classes, count + 1)
    found = prediction_sets(new, calibrate_sets(probabilities, labels), coverage, method)
    judge = ConformalClassifier()
    judge.fit(nonconformity(probabilities, method).gather(1, labels[:, None]).flatten().numpy())
    expected = judge.predict_set(nonconformity(new, method).numpy(), confidence=coverage, smoothing=False)
    assert np.array_equal(found.numpy(), np.asarray(expected, dtype=bool))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_cover_the_wanted_share_of_new_images(method: str, coverage: float) -> None:
    covered = []
    for seed in range(30):
        probabilities, labels = draw(200, 8, 2 * seed)
        new, new_labels = draw(500, 8, 2 * seed + 1)
        sets = prediction_sets(new, calibrate_sets(probabilities, labels), coverage, method)
        covered.append(set_metrics(sets, new_labels)["coverage"])
    assert coverage - 0.01 <= np.mean(covered)  # the standard error of this mean is 0.004
    if method == "lac":  # the others have many scores of 0, so that they may cover more
        assert np.mean(covered) <= coverage + 0.015


def test_set_metrics() -> None:
    sets = torch.tensor([[True, False, False], [True, True, False], [False, False, False], [False, True, True]])
    metrics = set_metrics(sets, torch.tensor([0, 1, 2, 0]))
    assert metrics["coverage"] == 0.5
    assert metrics["mean_size"] == 1.25
    assert (metrics["single"], metrics["empty"]) == (0.25, 0.25)


def test_coverage_that_the_validation_images_cannot_give_is_one_line() -> None:
    probabilities, labels = draw(50, 3, 0)
    calibration = calibrate_sets(probabilities, labels)
    with pytest.raises(UserError, match=r"^coverage=0.99 needs 99 validation images, and .* 50: a smaller coverage"):
        prediction_sets(probabilities, calibration, 0.99, "lac")
    prediction_sets(probabilities, calibration, 50 / 51, "lac")  # just possible


def test_evidence_is_that_of_the_paper() -> None:
    logits = torch.randn(20, 150, generator=torch.Generator().manual_seed(0)).double()
    ordered = np.sort(logits.softmax(dim=1).numpy(), axis=1)[:, -100:]
    assert known_class_evidence(logits).numpy() == pytest.approx(-(ordered**0.1 * (1 - ordered) ** 0.1).sum(axis=1))


def test_evidence_of_a_certain_image_is_not_rounded_away() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    exact, rounded = known_class_evidence(logits.double()), known_class_evidence(logits)
    assert rounded.double() == pytest.approx(exact, rel=1e-5)
    assert exact[0] < exact[1] < 0


@settings(max_examples=20)
@given(st.integers(1, 3000), st.sampled_from([0.01, 0.05, 0.3]))
def test_the_score_is_the_share_of_validation_images_below(count: int, share: float) -> None:
    random = torch.Generator().manual_seed(count)
    val, new = (5 * torch.randn(n, 6, generator=random).double() for n in (count, 4000))
    score = RejectionScore.fit(val)
    scores = score(new)
    assert ((scores >= 0) & (scores <= 1)).all()
    raw, known = known_class_evidence(new), known_class_evidence(val)
    expected = (known[None] < raw[:, None]).double().mean(dim=1)
    assert (scores - expected).abs().max() <= 1.1 / (count + 1) + 0.002  # interpolated, and at most 1,000 steps
    if count >= 1000:
        error = (share * (1 - share) * (1 / count + 1 / len(new))) ** 0.5  # standard error
        assert abs(float((scores < share).double().mean()) - share) < 4.5 * error


def test_equal_scores_have_the_highest_level() -> None:
    score = RejectionScore.fit(torch.tensor([[2.0, 0.0]] * 9))
    assert score(torch.tensor([[2.0, 0.0]])).item() == pytest.approx(0.9)
    assert score(torch.tensor([[0.0, 0.0]])).item() == 0


@pytest.fixture
def own_checkpoint(trained: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of a checkpoint, which a test may change."""
    copy = tmp_path / "best.ckpt"
    copy.write_bytes((trained[0] / "checkpoints" / "best.ckpt").read_bytes())
    return copy


def predict(checkpoint: Path, images: Path, folder: Path, *overrides: str) -> list[dict[str, str]]:
    run_command("predict", f"ckpt_path={checkpoint}", str(images), f"hydra.run.dir={folder}", *overrides)
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_predict_makes_the_decisions_that_training_fitted(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    metrics = json.loads((trained[0] / "metrics.json").read_text())["test"]
    assert set(metrics["prediction_sets"]) == set(METHODS)
    checkpoint = trained[0] / "checkpoints" / "best.ckpt"
    plain = predict(checkpoint, few / "test", tmp_path / "plain")
    assert all(0 <= float(row["score"]) <= 1 for row in plain)
    assert "set" not in plain[0]
    classifier = load_classifier(checkpoint)
    reject = 0.2
    assert classifier.rejection is not None
    rows = predict(checkpoint, few / "test", tmp_path / "decided", f"reject={reject}", "coverage=0.8")
    for before, row in zip(plain, rows, strict=True):
        assert row["prediction"] == (NONE_OF_THESE if float(row["score"]) < reject else before["prediction"])
        assert row["top1"] == before["top1"]
        names = json.loads(row["set"])
        assert len(names) == int(row["set_size"])
        assert names[:1] in ([], [row["top1"]])


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_has_no_decisions(own_checkpoint: Path, few: Path, tmp_path: Path) -> None:
    classifier = load_classifier(own_checkpoint)
    classifier.rejection, classifier.set_calibration = None, {}
    save_classifier(classifier, own_checkpoint)
    image = next((few / "test").rglob("*.jpg"))
    assert "score" not in predict(own_checkpoint, image, tmp_path / "run")[0]
    for setting in ("reject=0.05", "coverage=0.9"):
        result = try_command("predict", f"ckpt_path={own_checkpoint}", str(image), setting)
        assert result.status != 0
        assert f"{setting}: the checkpoint has no" in result.stderr


@pytest.mark.parametrize("setting", ["reject=2", "reject=0", "coverage=1", "coverage=-1", "conformal=best"])
def test_impossible_settings_are_one_line(trained: tuple[Path, str], setting: str) -> None:
    result = try_command("predict", f"ckpt_path={trained[0]}", "images", setting)
    assert result.status != 0
    assert len([line for line in result.stderr.splitlines() if setting in line]) == 1


@pytest.mark.slow
def test_the_api_decides_as_the_command_does(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    rows = predict(trained[0], few / "test", tmp_path / "run", "reject=0.2", "coverage=0.8", "conformal=aps")
    model = sl.load(trained[0])
    found = model.predict([row["path"] for row in rows], reject=0.2, coverage=0.8, conformal="aps")
    assert [p.label for p in found] == [row["prediction"] for row in rows]
    assert [p.score for p in found] == [float(row["score"]) for row in rows]
    assert [p.classes for p in found] == [json.loads(row["set"]) for row in rows]
    for arguments in ({"reject": 2.0}, {"coverage": 0.0}, {"conformal": "best"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            model.predict([rows[0]["path"]], **arguments)  # type: ignore[arg-type]
