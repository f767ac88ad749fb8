"""Labels that may be wrong: who is a suspect, the files that a person decides with, and metrics without suspects."""

import base64
import csv
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from image_lists import scan
from sports_lightning.audit.label_errors import find_similar, judge_by_features, judge_by_logits
from sports_lightning.audit.predictions import read_log_probabilities
from sports_lightning.audit.relabelling import write_label_check
from sports_lightning.audit.scan import DatasetScan
from sports_lightning.audit.suspects import check_labels
from sports_lightning.data.manifest import COLUMNS, read_manifest
from sports_lightning.errors import UserError
from sports_lightning.storage.files import read_csv, write_csv


def clusters(images: int = 600, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features of overlapping classes, and the labels."""
    draws = np.random.default_rng(0)
    labels = np.arange(images) % classes
    centers = draws.normal(0, 1, (classes, 32))
    return (centers[labels] + draws.normal(0, 0.8, (images, 32))).astype(np.float32), labels


def suspects(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> set[int]:
    judgement = judge_by_features(features, labels, groups, int(labels.max()) + 1)
    near = labels[find_similar(features, groups, np.arange(len(labels)))]
    votes = [(near == wanted[:, None]).mean(axis=1) for wanted in (labels, judgement.suggested)]
    return {i for i in range(len(labels)) if judgement.score(i, votes[0][i], votes[1][i]) >= judgement.threshold}


@pytest.mark.parametrize("share", [0, 0.02, 0.2])
def test_planted_errors_are_found_and_few_others(share: float) -> None:
    features, labels = clusters()
    wrong = np.random.default_rng(1).permutation(len(labels))[: round(share * len(labels))]
    planted = labels.copy()
    planted[wrong] = (planted[wrong] + 1) % 6
    found = suspects(features, planted, np.arange(len(labels)))
    assert len(found & set(wrong.tolist())) >= 0.9 * len(wrong)
    assert len(found - set(wrong.tolist())) <= 0.01 * len(labels)


def test_copies_with_the_same_wrong_label_do_not_hide_each_other() -> None:
    features, labels = clusters()
    features = np.concatenate([features, features[:1].repeat(20, axis=0)])
    labels = np.concatenate([labels, np.full(20, 1)])  # copies of the first image, which is of class 0
    alone = np.arange(len(labels))
    groups = alone.copy()
    groups[600:] = 0
    copies = set(range(600, 620))
    assert not suspects(features, labels, alone) & copies
    assert copies <= suspects(features, labels, groups)


def test_the_label_of_most_copies_is_the_suggested_one(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name, labels in {"three": "aab", "two": "ab", "other": "abb"}.items():
        image = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((96, 96))
        for i, label in enumerate(labels):
            (tmp_path / "data/train" / label).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "data/train" / label / f"{name} {i}.png")
    found = scan(tmp_path / "data", tmp_path / "cache")
    suggested = {found.paths[suspect.image]: suspect.suggested for suspect in check_labels(found).suspects}
    assert suggested == {
        "train/b/three 2.png": "a",
        "train/a/two 0.png": "b",
        "train/b/two 1.png": "a",
        "train/a/other 0.png": "b",
    }


def test_images_of_classes_that_no_other_fold_has_are_not_judged() -> None:
    features, labels = clusters()
    labels[0] = 6
    judgement = judge_by_features(features, labels, np.arange(len(labels)), 7)
    assert judgement.odds[0] == -np.inf
    assert np.isfinite(judgement.odds[1:]).all()


def test_probabilities_are_judged_after_a_temperature() -> None:
    sure = np.full((100, 3), -np.inf)
    labels = np.arange(100) % 3
    sure[:] = np.log(0.0005)
    sure[np.arange(100), np.where(np.arange(100) < 30, (labels + 1) % 3, labels)] = np.log(0.999)
    judgement = judge_by_logits(sure, labels)
    assert judgement.label_probability[50] == pytest.approx(0.7, abs=0.05), "70 % of the predictions are right"
    unknown = judge_by_logits(np.full((4, 3), -np.inf), np.zeros(4, np.int64))
    assert not len(unknown.candidates)


@pytest.fixture(scope="module")
def mislabeled(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetScan, Path]:
    """Three classes with a wrong label and a wrong label of a copy, and the folder of out-of-fold predictions."""
    tmp_path = tmp_path_factory.mktemp("mislabeled")
    root = tmp_path / "data"
    first, second, *_ = classes = sorted(path.name for path in (few / "train").iterdir())[:3]
    for split in ("train", "valid", "test"):
        for name in classes:
            shutil.copytree(few / split / name, root / split / name)
    source = sorted((root / "train" / first).iterdir())
    source[0].rename(root / "train" / second / "wrong.jpg")
    shutil.copy(source[1], root / "test" / second / "copy.jpg")
    found = scan(root, Path(os.environ["SPORTS_LIGHTNING_CACHE"]))
    names = sorted(set(found.labels))
    truth = [first if Path(path).name in ("wrong.jpg", "copy.jpg") else label for path, label in
             zip(found.paths, found.labels, strict=True)]  # fmt: skip
    probabilities = np.full((len(truth), len(names)), 0.001, np.float32)
    probabilities[np.arange(len(truth)), [names.index(name) for name in truth]] = 0.99
    folder = tmp_path / "folds"
    folder.mkdir()
    np.savez(folder / "predictions.npz", paths=found.paths, classes=names, probabilities=probabilities)
    (folder / "run.json").write_text('{"predictions": "test"}')
    return found, folder


@pytest.fixture
def predicted(mislabeled: tuple[DatasetScan, Path], tmp_path: Path) -> tuple[DatasetScan, Path]:
    """`mislabeled` with a folder of predictions that the test may change."""
    shutil.copytree(mislabeled[1], tmp_path / "folds")
    return mislabeled[0], tmp_path / "folds"


def test_audit_writes_suspects_and_a_manifest_of_the_whole_dataset(
    predicted: tuple[DatasetScan, Path], tmp_path: Path
) -> None:
    found, folder = predicted
    run = run_command("audit", "data=folder", f"data.root={found.root}", f"predictions={folder}", "hydra.run.dir=out")
    assert "see suspects.html" in run.stdout
    audit = json.loads((tmp_path / "out/audit.json").read_text())
    assert (audit["suspects"], audit["judged"]) == (2, len(found.paths))
    first, second, *_ = sorted(set(found.labels))
    rows = {row["image"]: row for row in read_csv(tmp_path / "out/suspects.csv")}
    assert set(rows) == {f"train/{second}/wrong.jpg", f"test/{second}/copy.jpg"}
    assert {(row["label"], row["suggested"]) for row in rows.values()} == {(second, first)}
    assert rows[f"test/{second}/copy.jpg"]["copy"].startswith(f"train/{first}/")
    table = read_manifest(tmp_path / "out/relabel.csv", found.root, {name: name for name in COLUMNS})
    assert [table.names[label] for label in table.labels] == found.labels
    assert list(table.paths) == found.paths
    page = (tmp_path / "out/suspects.html").read_text()
    assert page.count('<fieldset class="suspect"') == 2
    assert "http://" not in page
    assert "https://" not in page
    assert 'href="suspects.html"' in (tmp_path / "out/audit.html").read_text()


def test_the_page_holds_the_lines_of_the_manifest(predicted: tuple[DatasetScan, Path], tmp_path: Path) -> None:
    found, _ = predicted
    write_label_check(found, check_labels(found), tmp_path)
    page = (tmp_path / "suspects.html").read_text()
    packed = re.search(r'id="lines">([^<]*)<', page)[1]  # type: ignore[index]
    lines = json.loads(gzip.decompress(base64.b64decode(packed)))
    shown = [int(row) for row in re.findall(r'data-row="(\d+)"', page)]
    assert shown, "a copy with two labels is a suspect even without a classifier"
    assert all(isinstance(lines[row], list) for row in shown)
    text = "".join("".join(line) for line in lines)
    assert text == (tmp_path / "relabel.csv").read_text()
    row = next(csv.reader([text.splitlines()[shown[0]]]))
    assert lines[shown[0]][1] == row[1], "the part that the page replaces is the label"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no predictions.npz with probabilities"),
        ({"classes": ["x"]}, "are of other classes: they lack"),
        ({"paths": ["elsewhere.jpg"] * 3}, "are of other images than data.root"),
    ],
)
def test_predictions_of_something_else_are_refused(
    arrays: dict[str, list[str]], message: str, predicted: tuple[DatasetScan, Path], tmp_path: Path
) -> None:
    found, folder = predicted
    given = {
        "paths": found.paths[:3],
        "classes": sorted(set(found.labels)),
        "probabilities": np.ones((3, 3)),
        **arrays,
    }
    np.savez(folder / "predictions.npz", **(given if arrays else {}))
    command = ["audit", "data=folder", f"data.root={found.root}", f"predictions={folder}", "hydra.run.dir=out"]
    assert_error_line(try_command(*command), message)
    assert not (tmp_path / "out/suspects.csv").exists()


def test_predictions_of_other_content_judge_no_label(
    predicted: tuple[DatasetScan, Path], caplog: pytest.LogCaptureFixture
) -> None:
    found, folder = predicted
    with np.load(folder / "predictions.npz") as arrays:
        given = dict(arrays)
    names = sorted(set(found.labels))
    np.savez(folder / "predictions.npz", **given, digests=["0", *found.digests[1:]])
    probabilities = read_log_probabilities(folder, found, names)
    assert np.isinf(probabilities).all(axis=1).tolist() == [True, *[False] * (len(found.paths) - 1)]
    assert "1 images have changed since they were predicted" in caplog.text
    np.savez(folder / "predictions.npz", **given, digests=["0"] * len(found.paths))
    with pytest.raises(UserError, match="are of other images"):
        read_log_probabilities(folder, found, names)


def test_predictions_without_their_run_are_refused(predicted: tuple[DatasetScan, Path]) -> None:
    found, folder = predicted
    Path("unlabeled").mkdir()
    (Path("unlabeled") / "predictions.npz").write_bytes((folder / "predictions.npz").read_bytes())  # as predict does
    command = ["audit", "data=folder", f"data.root={found.root}", "predictions=unlabeled", "hydra.run.dir=out"]
    assert_error_line(try_command(*command), "holds no predictions.npz with probabilities of a known split")


def test_predictions_of_training_images_are_refused(predicted: tuple[DatasetScan, Path]) -> None:
    found, folder = predicted
    (folder / "run.json").write_text('{"predictions": "train"}')
    command = ["audit", "data=folder", f"data.root={found.root}", f"predictions={folder}", "hydra.run.dir=out"]
    assert_error_line(try_command(*command), "whose labels the classifier has seen")


def suspects_file(found: DatasetScan, images: list[int], path: Path) -> Path:
    rows = [[found.paths[i], found.labels[i], found.splits[i], found.digests[i]] for i in images]
    write_csv(path, ["image", "label", "split", "digest"], rows)
    return path


@pytest.mark.slow
def test_evaluate_also_reports_metrics_without_suspects(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    found = scan(few, tmp_path / "cache")
    of_test = [i for i, split in enumerate(found.splits) if split == "test"]
    file = suspects_file(found, [0, *of_test[:3]], tmp_path / "suspects.csv")
    text = file.read_text().splitlines()
    text[-1] = text[-1].replace(f",{found.labels[of_test[2]]},", ",corrected since,")
    file.write_text("\n".join(text))
    command = ["evaluate", f"ckpt_path={trained[0]}/checkpoints/best.ckpt", f"data.root={few}", "hydra.run.dir=out"]
    run = run_command(*command, f"data.suspects={file}")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["test"]
    assert metrics["suspects"] == 2
    assert metrics["without_suspects"]["count"] == metrics["count"] - 2
    assert "suspects" not in metrics["without_leaks"]
    assert "without 2" in run.stdout
    run_command(*command[:-1], "hydra.run.dir=again")
    assert "suspects" not in json.loads((tmp_path / "again/metrics.json").read_text())["test"]


@pytest.mark.slow
def test_suspects_of_another_dataset_are_refused(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    command = ["evaluate", f"ckpt_path={trained[0]}/checkpoints/best.ckpt", f"data.root={few}", "hydra.run.dir=out"]
    (tmp_path / "s.csv").write_text("image,label,split,digest\na.jpg,a,test,0\n")
    assert_error_line(try_command(*command, "data.suspects=s.csv"), "s.csv is of another dataset: no image in it")
    (tmp_path / "s.csv").write_text("image\na.jpg\n")
    assert_error_line(try_command(*command, "data.suspects=s.csv"), "s.csv is not a suspects.csv that audit wrote")
    assert_error_line(try_command(*command, "data.suspects=none.csv"), "none.csv is not a suspects.csv")
    assert_error_line(try_command("train", *FAST, f"data.root={few}", "data.suspects=s.csv"), "s.csv is not a suspects")


@pytest.mark.slow
def test_train_reports_metrics_without_suspects(few: Path, tmp_path: Path) -> None:
    found = scan(few, tmp_path / "cache")
    chosen = [next(i for i, split in enumerate(found.splits) if split == name) for name in ("val", "test")]
    file = suspects_file(found, chosen, tmp_path / "suspects.csv")
    run_command("train", *FAST, f"data.root={few}", f"data.suspects={file}", "debug=fast", "hydra.run.dir=out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (metrics["val"]["suspects"], metrics["test"]["suspects"]) == (1, 1)
    assert "without 1 suspects" in (tmp_path / "out/report.html").read_text()
    assert "without 1 suspects" in (tmp_path / "out/checkpoints/MODEL_CARD.md").read_text()
