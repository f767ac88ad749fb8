"""Averages of checkpoints: weights, the choice on the validation split, and the run folder."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from commands import run_command, try_command
from conftest import assert_error_line
from sports_lightning.average.candidates import Shares, choose, greedy, path, uniform
from sports_lightning.average.weights import average
from sports_lightning.data.dataset_index import Split
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.models.classifier import Classifier, load_classifier, save_classifier

LABELS = [0, 1, 2, 3]


def evaluation_of(correct: set[int], margin: float) -> Evaluation:
    """An evaluation of four images, of which some are classified correctly, all with the same margin."""
    predicted = torch.tensor([label if label in correct else (label + 1) % 4 for label in LABELS])
    split = Split([f"{label}.png" for label in LABELS], LABELS)
    return Evaluation(Path(), split, list("abcd"), F.one_hot(predicted, 4).float() * margin)


def soup_of_three(shares: Shares) -> Evaluation:
    """Single accuracies 0.5, 0.75 and 0.25; the second gains from the first, and loses by the third."""
    members = {i for i, share in enumerate(shares) if share}
    correct = {(0,): {0, 1}, (1,): {0, 1, 2}, (2,): {0}, (0, 1): {0, 1, 2, 3}, (0, 1, 2): {0}}
    return evaluation_of(correct[tuple(sorted(members))], margin=2)


def test_greedy_adds_checkpoints_from_the_best_on_while_the_mean_is_not_worse() -> None:
    candidates = greedy(3, soup_of_three)
    assert [each.shares for each in candidates] == [
        (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (1 / 3, 1 / 3, 1 / 3)
    ]  # fmt: skip
    chosen = choose("greedy", candidates)
    assert chosen.shares == (0.5, 0.5, 0)
    assert chosen.acc == 1.0


def test_uniform_is_the_mean_even_if_a_checkpoint_is_better() -> None:
    assert choose("uniform", uniform(3, soup_of_three)).shares == (1 / 3, 1 / 3, 1 / 3)


def test_a_path_ends_at_the_best_accuracy_and_then_the_lowest_loss() -> None:
    margins = {0.3: 3.0, 0.7: 5.0}  # all correct there: the larger margin has the lower loss

    def evaluate(shares: Shares) -> Evaluation:
        return evaluation_of(set(LABELS) if shares[1] in margins else {0}, margins.get(shares[1], 1.0))

    candidates = path(2, evaluate)
    assert [each.shares[1] for each in candidates] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert choose("path", candidates).shares == (0.3, 0.7)


@pytest.fixture
def ends(trained: tuple[Path, str]) -> list[Path]:
    """Run folders of one training and of the same network with other weights in its last layer."""
    folders = [Path(name).absolute() for name in ("first", "second")]
    for folder in folders:
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copy(trained[0] / "checkpoints/best.ckpt", folder / "checkpoints")
    other = load_classifier(folders[1])
    with torch.no_grad():
        for parameter in other.net.get_classifier().parameters():
            parameter.mul_(-3)
    save_classifier(other, folders[1] / "checkpoints/best.ckpt")
    return folders


def test_weights_are_the_weighted_mean_and_calibration_is_dropped(ends: list[Path]) -> None:
    classifiers = [load_classifier(folder) for folder in ends]
    mean = average(classifiers, (0.25, 0.75))
    first, other = (classifier.net.get_classifier().weight for classifier in classifiers)
    torch.testing.assert_close(mean.net.get_classifier().weight, 0.25 * first + 0.75 * other)
    assert mean.rejection is None
    assert not mean.set_calibration
    same = average(classifiers, (1.0, 0.0)).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in classifiers[0].state_dict().items())


@pytest.mark.slow
def test_the_run_folder_is_a_run_that_other_commands_read(ends: list[Path], tmp_path: Path) -> None:
    both = f"ckpt_path=[{ends[0]},{ends[1]}]"
    run_command("average", both, "method=path", "hydra.run.dir=averaged", "inference.accelerator=cpu")
    with Path("averaged/average.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if row["chosen"] == "1"]
    assert len(rows) == 11
    assert len(chosen) == 1
    assert list(rows[0])[:2] == [str(folder / "checkpoints/best.ckpt") for folder in ends]
    best = max(rows, key=lambda row: (float(row["val_acc"]), -float(row["val_loss"])))
    assert chosen == [best]

    run_command("evaluate", "ckpt_path=averaged", "split=val", "hydra.run.dir=again", "inference.accelerator=cpu")
    metrics, again = (json.loads(Path(folder, "metrics.json").read_text())["val"] for folder in ("averaged", "again"))
    assert metrics == again
    assert metrics["acc"] == float(best["val_acc"])
    assert Path("averaged/predictions.csv").read_text() == Path("again/predictions.csv").read_text()
    classifier = load_classifier("averaged")
    assert isinstance(classifier, Classifier)
    assert classifier.rejection is not None, "fitted to the average's own logits"


@pytest.mark.slow
def test_checkpoints_that_cannot_be_averaged_are_one_line(ends: list[Path]) -> None:
    file = ends[1] / "checkpoints/best.ckpt"
    content = torch.load(file, weights_only=True)
    content["sports_lightning"]["trained_on"] = "other"
    torch.save(content, file)
    result = try_command("average", f"ckpt_path=[{ends[0]},{ends[1]}]", "hydra.run.dir=out")
    assert_error_line(result, "were trained on different images", str(ends[0]), str(ends[1]))
    assert not Path("out/metrics.json").exists()
    twice = try_command("average", f"ckpt_path=[{ends[0]},{ends[0]}]")
    assert_error_line(twice, "names a checkpoint twice")
    assert_error_line(try_command("average", f"ckpt_path=[{ends[0]}]"), "pass two or more")
    three = f"ckpt_path=[{ends[0]},{ends[1]},{ends[0]}]"
    assert_error_line(try_command("average", three, "method=path"), "method=path is between two checkpoints")
