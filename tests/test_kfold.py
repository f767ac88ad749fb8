"""Cross-validation: folds that share features, pooled predictions, intervals and tests that respect groups."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats

from commands import jobs_in_this_process, run_command, try_command
from conftest import FAST, assert_error_line, composed
from sports_lightning.compare import compare
from sports_lightning.compare.comparison import _joined_groups
from sports_lightning.compare.significance import paired_difference
from sports_lightning.data.augment import EpochTransform
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.dataset import TrainingImages
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.decoded_cache import ImageFiles
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.errors import UserError
from sports_lightning.evaluate.clustered_intervals import clustered_bootstrap, clustered_wilson, describe_methods
from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.intervals import wilson
from sports_lightning.evaluate.out_of_fold import write_fold
from sports_lightning.inference import feature_cache
from sports_lightning.inference.feature_cache import logits_from_features
from sports_lightning.inference.frozen_pass import FrozenPass
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.inference.training_features import cached_part, use_cached_features
from sports_lightning.models.classifier import Classifier, build_classifier
from sports_lightning.models.freezing import set_trainable
from sports_lightning.split.assignment import assign_folds
from sports_lightning.split.dataset import open_dataset
from sports_lightning.split.split_file import copy_split_file, with_split_of, write_split_file
from sports_lightning.train.kfold import pool_folds
from sports_lightning.train.refit_head import refit_head
from sports_lightning.train.training_images import open_training_images

HEAD = ["model=timm", "model.name=test_efficientnet", "model.pretrained=false", "model.image_size=64", "finetune=head"]
QUICK = ["trainer.max_epochs=1", "data.num_workers=0", "data.audit=false", "logger=csv", "data=folder"]


@pytest.fixture(scope="module")
def images(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of each of three classes; the first image of a class occurs twice."""
    root = tmp_path_factory.mktemp("kfold") / "images"
    for folder in sorted((few / "train").iterdir())[:3]:
        (root / folder.name).mkdir(parents=True)
        files = sorted(folder.iterdir())[:7]
        for file in files:
            shutil.copy(file, root / folder.name)
        shutil.copy(files[0], root / folder.name / "copy.jpg")
    return root


@pytest.fixture(scope="module")
def swept(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep over two folds, with two learning rates. Tests must not change it."""
    folder = tmp_path_factory.mktemp("swept")
    settings = [*FAST, *HEAD, *QUICK, f"data.root={images}", "sweep=kfold", "data.folds=2"]
    with jobs_in_this_process():
        run_command("train", *settings, "optimizer.lr=1e-3,1e-1", "hydra.sweep.dir=sweep", cwd=folder)
    return folder / "sweep"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as content:
        return list(csv.DictReader(content))


@pytest.mark.slow
def test_the_folds_of_each_configuration_are_pooled(images: Path, swept: Path) -> None:
    pooled = swept / "pooled-0"
    rows, folds = rows_of(pooled / "predictions.csv"), rows_of(pooled / "folds.csv")
    assert [row["path"] for row in rows] == sorted(str(p.relative_to(images)) for p in images.rglob("*.jpg"))
    for fold in folds:
        own = {row["path"]: row for row in rows_of(pooled / fold["job"] / "predictions.csv")}
        found = [row for row in rows if row["fold"] == fold["fold"]]
        assert {row["path"] for row in found} == set(own)
        assert all(row[key] == own[row["path"]][key] for row in found for key in ("prediction", "label_probability"))
    group = {row["path"]: (row["fold"], row["group"]) for row in rows}
    first = sorted(images.iterdir())[0].name
    assert group[f"{first}/copy.jpg"] == group[f"{first}/001.jpg"] != group[f"{first}/002.jpg"]
    test = json.loads((pooled / "metrics.json").read_text())["test"]
    assert test["acc"] == np.mean([row["prediction"] == row["label"] for row in rows])
    assert test["loss"] == pytest.approx(np.mean([-np.log(float(row["label_probability"])) for row in rows]))
    assert (test["count"], test["groups"]) == (24, 21)
    assert set(test["ci95"]) == {"acc", "acc_top5", "loss", "brier", "f1_macro", "precision_macro", "recall_macro"}
    with np.load(pooled / "predictions.npz") as arrays:
        assert arrays["fold"].tolist() == [int(row["fold"]) for row in rows]
        assert arrays["probabilities"].shape == (24, 3)
    report = (pooled / "report.html").read_text()
    assert all(f"<td>{fold['job']}</td>" in report for fold in folds)
    assert (pooled / "confusion_matrix.png").exists()
    assert (swept / "pooled-1/report.html").exists()


@pytest.mark.slow
def test_two_cross_validations_are_paired(swept: Path) -> None:
    comparison = compare([swept])
    assert [run.name for run in comparison.runs] == ["pooled-0", "pooled-1"]
    assert comparison.differing == ["optimizer.lr"]
    (pair,) = comparison.pairings
    assert (pair.images, set(pair.folds)) == (24, {0, 1})
    first, second = (json.loads((swept / run.name / "metrics.json").read_text())["test"] for run in comparison.runs)
    assert pair.result.difference == pytest.approx(first["acc"] - second["acc"])
    counts = np.bincount(comparison.runs[0].folds)
    assert np.dot(counts, list(pair.folds.values())) / 24 == pytest.approx(pair.result.difference)
    result = run_command("compare", str(swept))
    assert "fold 1:" in result.stdout


@pytest.mark.slow
def test_an_unfinished_fold_leaves_no_result_and_resuming_adds_it(images: Path, tmp_path: Path) -> None:
    settings = [*FAST, *HEAD, *QUICK, f"data.root={images}", "sweep=kfold", "data.folds=2", "hydra.sweep.dir=sweep"]
    with jobs_in_this_process(), patch("sports_lightning.train.results.write_fold", fail_second()):
        result = try_command("train", *settings)
    assert result.status == 1
    assert "no pooled result in" in result.stderr
    assert "fold 1 of 2 is not finished" in result.stderr
    assert not (tmp_path / "sweep/metrics.json").exists()
    before = {file: file.read_bytes() for file in (tmp_path / "sweep/0").rglob("*") if file.is_file()}
    with jobs_in_this_process():
        result = run_command("train", "resume=sweep")
    assert "2 folds pooled, 24 images in 21 groups" in result.stdout
    assert "best accuracy on val" not in result.stdout
    assert len(rows_of(tmp_path / "sweep/predictions.csv")) == 24
    assert all(file.read_bytes() == content for file, content in before.items())


def fail_second() -> Any:
    """`write_fold`, which fails when it is called for the second time."""
    calls: list[Any] = []

    def write(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise UserError("no space")
        write_fold(*arguments)

    return write


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["data.fold=1"], ["sweep=kfold runs all folds: leave out data.fold=1"]),
        (["data.folds=1"], ["two folds or more", "data.folds=1"]),
        (["data.folds=null"], ["needs a number of folds", "data.folds=null"]),
        (["data.folds=2,3"], ["needs a number of folds", "data.folds=2,3"]),
        (["test=false"], ["leave out test=false"]),
        (["hydra/sweeper=optuna"], ["leave out hydra/sweeper"]),
    ],
)
def test_impossible_cross_validations_are_one_line(settings: list[str], parts: list[str], tmp_path: Path) -> None:
    assert_error_line(try_command("train", "sweep=kfold", "data=sample", *settings), *parts)
    assert not list(tmp_path.rglob("multirun.yaml"))


def folds_of(images: Path, cache: Path, *overrides: str) -> list[tuple[Any, DatasetIndex]]:
    """(config, index) of two of three folds."""
    found = []
    for fold in range(2):
        settings = ["data.folds=3", f"data.fold={fold}", f"data.cache_dir={cache}", "trainer.precision=32-true"]
        cpu = ["inference.accelerator=cpu", "data.num_workers=0", *HEAD]
        cfg = composed(cache, "data=folder", f"data.root={images}", *settings, *cpu, *overrides)
        found.append((cfg, open_dataset(cfg.data, ["train", "val", "test"], may_cut=True)))
    return found


def module_of(cfg: Any, index: DatasetIndex) -> tuple[Classifier, SportsDataModule]:
    torch.manual_seed(0)
    classifier = build_classifier(cfg.model, index.classes, index.root)
    set_trainable(classifier.net, cfg.finetune)
    cfg.augment.preprocessing = classifier.spec.preprocessing
    preprocessing = Preprocessing.from_dict(classifier.spec.preprocessing)
    return classifier, SportsDataModule(index, preprocessing, cfg.data, cfg.augment, cfg.seed)


@pytest.mark.slow
@pytest.mark.parametrize(("augment", "passes"), [("none", 1), ("standard", 3)])
def test_folds_share_features_that_equal_those_of_their_images(
    images: Path, tmp_path: Path, augment: str, passes: int
) -> None:
    settings = [f"augment={augment}", *(["augment.fixed_augmentations=2"] if augment == "standard" else [])]
    with patch.object(feature_cache, "run_batches", wraps=feature_cache.run_batches) as run:
        for cfg, index in folds_of(images, tmp_path, *settings):
            classifier, data = module_of(cfg, index)
            plain, validation = data.train_set, data.val_set
            part = cached_part(classifier, data.index, cfg)
            assert part
            use_cached_features(part, classifier, data, cfg, FrozenPass(precision=cfg.trainer.precision))
            rest = partial(part.rest, classifier.eval())
            with torch.inference_mode():
                for key in ((0, 0, 0), (1, 5, 0), (4, 3, 1)):
                    (image, label), (features, same) = plain[key], data.train_set[key]
                    torch.testing.assert_close(rest(features[None]), classifier(image[None]))
                    assert label == same
                (image, label), (features, same) = validation[1], data.val_set[1]
                torch.testing.assert_close(rest(features[None]), classifier(image[None]))
                assert label == same
            found = logits_from_features(part, classifier, index, "test", cfg.inference, tmp_path)
            torch.testing.assert_close(
                found, compute_logits(classifier, index.root, index.splits["test"], cfg.inference)
            )
    backbone = [call for call in run.call_args_list if call.args[0].__name__ == "run"]
    assert len(backbone) == passes, "both folds share each pass over the images"


def test_an_image_has_the_same_augmentations_in_all_folds(images: Path, tmp_path: Path) -> None:
    seen: dict[str, torch.Tensor] = {}
    shared = 0
    for cfg, index in folds_of(images, tmp_path, "augment=standard"):
        _, data = module_of(cfg, index)
        train = index.splits["train"]
        for i, path in enumerate(train.paths):
            image, _ = data.train_set[3, i, 1]
            shared += path in seen
            assert torch.equal(seen.setdefault(path, image), image)
        alone = ImageFiles(index.root, train, data.preprocessing.least_side)
        ordinary = TrainingImages(alone, train.labels, EpochTransform(cfg.augment), cfg.seed)
        assert not all(torch.equal(ordinary[3, i, 1][0], data.train_set[3, i, 1][0]) for i in range(len(train)))
    assert shared, "some images are in the training split of both folds"


def test_decoded_images_are_cached_once_for_all_folds(images: Path, tmp_path: Path) -> None:
    for cfg, index in folds_of(images, tmp_path, "augment=none", "data.cache=disk"):
        _, cached = module_of(cfg, index)
        cfg.data.cache = None
        _, decoded = module_of(cfg, index)
        assert torch.equal(cached.train_set[0, 4, 0][0], decoded.train_set[0, 4, 0][0])
        assert torch.equal(cached.val_set[1][0], decoded.val_set[1][0])
        heads = []
        for cfg.data.cache in ("disk", None):
            cfg.refit = 1e-3
            refitted, _ = module_of(cfg, index)
            refit_head(refitted, index, cfg, cfg.inference, None)
            heads.append(refitted.net.get_classifier().weight)  # type: ignore[operator]
        assert torch.equal(*heads), "of the same images"
    assert len(list((tmp_path / "images").iterdir())) == 1, "by refit, too"


def test_a_resumed_fold_has_the_same_pool(images: Path, tmp_path: Path) -> None:
    (_, _), (cfg, index) = folds_of(images, tmp_path)
    (tmp_path / "run").mkdir()
    write_split_file(index, cfg.data, tmp_path / "run")
    again = open_dataset(with_split_of(tmp_path / "run", cfg.data), ["train", "val", "test"], may_cut=True)
    for name, split in index.splits.items():
        assert list(again.splits[name].paths) == list(split.paths)
        assert np.array_equal(again.splits[name].rows, split.rows)


@pytest.mark.parametrize("layout", ["train and valid", "some rows with a split"])
def test_a_resumed_run_has_its_images_in_the_same_order(layout: str, few: Path, tmp_path: Path) -> None:
    """A cut may mix images of several folders, or of rows with and without a split: each is ordered by class itself."""
    cfg = composed(tmp_path, *FAST, "data=folder", f"data.root={few}", "data.folds=5", "data.fold=1")
    if layout == "some rows with a split":
        paths = sorted(path.relative_to(few) for path in few.glob("*/*/*.jpg"))
        given = ["train" if path.parts[0] == "train" and int(path.stem) > 20 else "" for path in paths]
        rows = [f"{path},{path.parts[1]},{split}" for path, split in zip(paths, given, strict=True)]
        (tmp_path / "images.csv").write_text("\n".join(["image,label,split", *rows]))
        cfg = composed(tmp_path, *FAST, "data=folder", f"data.root={few}", f"data.manifest={tmp_path}/images.csv")
    splits = ["train", "val", "test"]
    index = open_dataset(cfg.data, splits, may_cut=True)
    write_split_file(index, cfg.data, tmp_path)
    again = open_dataset(with_split_of(tmp_path, cfg.data), splits)
    assert [again.fingerprint(split) for split in splits] == [index.fingerprint(split) for split in splits]
    assert {path.partition("/")[0] for path in index.splits["train"].paths} >= {"train", "valid"}


def test_a_start_that_was_given_up_leaves_no_split_to_the_next(images: Path, tmp_path: Path) -> None:
    settings = [*FAST, *HEAD, *QUICK, f"data.root={images}", "data.folds=2", "hydra.run.dir=run"]
    assert_error_line(try_command("train", *settings, "data.fold=0", "model.weights=missing.pth"), "missing.pth")
    assert not (tmp_path / "run").exists()
    # As a process that is killed at its start leaves it.
    cfg = composed(tmp_path, *settings, "data.fold=0")
    (tmp_path / "run/.hydra").mkdir(parents=True)
    write_split_file(open_dataset(cfg.data, ["train", "val", "test"], may_cut=True), cfg.data, tmp_path / "run")
    (tmp_path / "run/split.csv").write_text("image,label,split,group\nanother.jpg,a,train,0\n")
    run_command("train", *settings, "data.fold=1")
    assert json.loads((tmp_path / "run/split.json").read_text())["settings"]["fold"] == 1
    with (tmp_path / "run/split.csv").open() as file:
        tested = {row["image"] for row in csv.DictReader(file) if row["split"] == "test"}
    with (tmp_path / "run/predictions.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == tested


def test_a_second_split_in_the_same_folder_is_refused(images: Path, tmp_path: Path) -> None:
    run_command("split", f"data.root={images}", "hydra.run.dir=run")
    written = (tmp_path / "run/split.csv").read_bytes()
    result = try_command("split", f"data.root={images}", "data.split.seed=1", "hydra.run.dir=run")
    assert_error_line(result, "split.csv already", "hydra.run.dir")
    assert (tmp_path / "run/split.csv").read_bytes() == written


def test_a_start_that_was_given_up_leaves_no_split_to_a_dataset_with_splits(few: Path, tmp_path: Path) -> None:
    cfg = composed(tmp_path, *FAST, "data=folder", f"data.root={few}")
    fold = composed(tmp_path, *FAST, "data=folder", f"data.root={few}", "data.folds=5", "data.fold=0")
    write_split_file(open_dataset(fold.data, ["train", "val", "test"], may_cut=True), fold.data, tmp_path)
    index = open_training_images(cfg, tmp_path)
    assert {path.partition("/")[0] for path in index.splits["test"].paths} == {"test"}
    assert not list(tmp_path.glob("split.*")), "evaluate would use them"


def test_intervals_by_groups_have_their_nominal_coverage() -> None:
    """Groups of three copies that are right or wrong together: intervals of independent images are too narrow."""
    draws = np.random.default_rng(0)
    labels = np.repeat(np.tile(np.arange(3), 40), np.tile([1, 3], 60))
    groups = np.repeat(np.arange(120), np.tile([1, 3], 60))
    covered = dict.fromkeys(("acc", "independent", "loss", "recall_macro"), 0)
    repeats = 150
    for _ in range(repeats):
        correct = (draws.random(120) < 0.8)[groups]
        losses = draws.exponential(1, 120)[groups]
        predicted = np.where(correct, labels, (labels + 1) % 3)
        with patch("sports_lightning.evaluate.clustered_intervals.RESAMPLES", 400):
            found = clustered_bootstrap({"loss": losses}, predicted, labels, groups, 3)
        intervals = {
            **found,
            "acc": clustered_wilson(correct, groups),
            "independent": wilson(int(correct.sum()), len(correct)),
        }
        truth = {"loss": 1.0, "acc": 0.8, "independent": 0.8, "recall_macro": 0.8}
        for name, value in truth.items():
            covered[name] += intervals[name][0] <= value <= intervals[name][1]
    assert all(0.89 <= covered[name] / repeats <= 0.99 for name in ("acc", "loss", "recall_macro")), covered
    assert covered["independent"] / repeats < 0.88


def test_intervals_of_single_images_are_wilsons() -> None:
    correct = np.arange(50) % 5 > 0
    assert clustered_wilson(correct, np.arange(50)) == pytest.approx(wilson(40, 50))
    (low, high), (without_t, _) = clustered_wilson(np.ones(20, dtype=bool), np.arange(20) // 2), wilson(10, 10)
    assert 0.6 < low < without_t
    assert high == 1


@pytest.mark.parametrize(("groups", "size"), [(5, 100), (10, 50), (20, 20)])
def test_the_interval_of_few_large_groups_has_its_nominal_coverage(groups: int, size: int) -> None:
    draws, covered = np.random.default_rng(0), 0
    codes = np.repeat(np.arange(groups), size)
    for _ in range(400):
        correct = draws.random(groups * size) < np.repeat(draws.beta(8, 2, groups), size)
        low, high = clustered_wilson(correct, codes)
        covered += low <= 0.8 <= high
    assert covered / 400 >= 0.92  # 0.84 to 0.93 with the quantile of a normal distribution


def test_the_near_copies_of_a_single_run_count_as_one_observation() -> None:
    """Twenty pairs of copies, each with one outcome, tell as much as twenty images."""
    labels = np.repeat(np.arange(20) % 4, 2)
    predicted = torch.from_numpy(np.where(np.repeat(np.arange(20), 2) < 16, labels, (labels + 1) % 4))
    logits = 5 * torch.nn.functional.one_hot(predicted, 4).float()
    paths = [f"{i}.png" for i in range(40)]
    pairs, alone = (
        Evaluation(Path(), Split(paths, labels.tolist(), (), groups), list("abcd"), logits).metrics()
        for groups in (np.repeat(np.arange(20), 2), np.arange(40))
    )
    without = Evaluation(Path(), Split(paths, labels.tolist()), list("abcd"), logits).metrics()
    assert alone == without, "no two images are copies"
    assert "groups" not in alone
    assert pairs["groups"] == 20
    assert pairs["ci95"]["acc"] == clustered_wilson(predicted.numpy() == labels, np.repeat(np.arange(20), 2))
    widths = [metrics["ci95"]["acc"][1] - metrics["ci95"]["acc"][0] for metrics in (pairs, alone)]
    assert 1.3 < widths[0] / widths[1] < 1.6, "about the square root of two"
    assert "near copies count as one observation" in describe_methods({"test": pairs})
    assert "near copies" not in describe_methods({"test": alone})


def test_one_group_says_nothing_about_others() -> None:
    correct = np.arange(50) < 40
    assert clustered_wilson(correct, np.zeros(50, dtype=int)) == (0, 1)


def test_a_class_of_one_group_is_a_caveat() -> None:
    labels, groups = [0, 0, 0, 1, 1, 1, 2], np.array([0, 0, 0, 1, 1, 2, 3])
    logits = 5 * torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 1, 2, 0, 2]), 3).float()
    split = Split([f"{i}.png" for i in range(7)], labels, (), groups)
    metrics = Evaluation(Path(), split, list("abc"), logits).metrics()
    assert "macro averages have no intervals, because 2 classes have a single group of images" in metrics["caveats"]
    assert "f1_macro" not in metrics["ci95"]


@pytest.mark.parametrize(
    ("groups", "has_intervals"),
    [([0, 0, 1, 2, 3, 0, 4], False), ([0, 0, 1, 2, 3, 0, 0], True)],
    ids=["one group of its own", "only with the other class"],
)
def test_a_group_of_two_classes_counts_for_the_first(groups: list[int], has_intervals: bool) -> None:
    labels = [0, 0, 0, 0, 0, 1, 1]
    logits = 5 * torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 0, 0, 1, 0]), 2).float()
    split = Split([f"{i}.png" for i in range(7)], labels, (), np.array(groups))
    metrics = Evaluation(Path(), split, list("ab"), logits).metrics()
    assert ("f1_macro" in metrics["ci95"]) == has_intervals
    assert any("have no intervals, because 1 class has a single group" in line for line in metrics["caveats"]) != (
        has_intervals
    )


def test_there_may_be_many_folds() -> None:
    labels, groups = np.zeros(600, dtype=int), np.arange(600) // 2
    folds = assign_folds(labels, groups, 200, 1, np.random.default_rng(0))
    assert np.bincount(folds, minlength=200).min() >= 2
    assert (folds[::2] == folds[1::2]).all()


def test_the_pairing_of_grouped_runs_does_not_depend_on_their_order() -> None:
    first, second = [0, 0, 1, 2, 2], [0, 1, 1, 3, 4]
    joined = [_joined_groups(first, second), _joined_groups(second, first)]
    assert joined == [[0, 0, 0, 1, 1]] * 2
    assert _joined_groups(None, second) == _joined_groups(second, None) == second
    assert _joined_groups(None, None) is None


@pytest.mark.slow
def test_a_fold_that_was_trained_again_changes_the_pooled_result(swept: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(swept, sweep)
    target = tmp_path / "pooled"
    rows = rows_of(sweep / "pooled-0" / "folds.csv")
    jobs = {(sweep / "pooled-0" / row["job"]).resolve(): [f"data.fold={row['fold']}"] for row in rows}
    assert pool_folds(target, jobs)
    before = json.loads((target / "metrics.json").read_text())
    changed = next(iter(jobs))
    with np.load(changed / "out_of_fold.npz") as arrays:
        content = dict(arrays)
    np.savez(changed / "out_of_fold.npz", **content | {"logits": -content["logits"]})
    test = json.loads((changed / "metrics.json").read_text())
    test["test"]["acc"] = 0.0
    (changed / "metrics.json").write_text(json.dumps(test))
    assert pool_folds(target, jobs)
    assert json.loads((target / "metrics.json").read_text()) != before
    (changed / "metrics.json").unlink()
    assert not pool_folds(target, jobs)


@pytest.mark.slow
def test_the_pooled_result_has_metrics_without_suspects(swept: Path, images: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(swept, sweep)
    rows = rows_of(sweep / "pooled-0" / "folds.csv")
    jobs = {(sweep / "pooled-0" / row["job"]).resolve(): [f"data.fold={row['fold']}"] for row in rows}
    with np.load(next(iter(jobs)) / "out_of_fold.npz") as arrays:
        path, digest = str(arrays["paths"][0]), str(arrays["digests"][0])
    suspects = tmp_path / "suspects.csv"
    suspects.write_text(f"image,label,split,digest\n{path},{path.partition('/')[0]},train,{digest}\n")
    for job in jobs:
        config = OmegaConf.load(job / ".hydra/config.yaml")
        config.data.suspects = str(suspects)
        OmegaConf.save(config, job / ".hydra/config.yaml")
    assert pool_folds(tmp_path / "pooled", jobs)
    test = json.loads((tmp_path / "pooled/metrics.json").read_text())["test"]
    copies = sum(file.read_bytes() == (images / path).read_bytes() for file in images.rglob("*.jpg"))
    assert test["suspects"] == copies
    assert test["without_suspects"]["count"] == 24 - copies
    page = (tmp_path / "pooled/report.html").read_text()
    assert "<th>all folds pooled</th><th>without" in page


def test_the_paired_test_respects_groups() -> None:
    draws = np.random.default_rng(0)
    first, second = draws.random((2, 60)) < np.array([[0.8], [0.6]])
    single = paired_difference(first, second)
    assert paired_difference(first, second, np.arange(60)) == single
    copies = paired_difference(np.repeat(first, 2), np.repeat(second, 2), np.repeat(np.arange(60), 2))
    assert copies.p_value == single.p_value, "copies add nothing"
    assert copies.high - copies.low == pytest.approx(single.high - single.low, rel=0.03)
    # Groups of one, two and three: the exact permutation test by enumeration.
    groups = np.array([0, 1, 1, 2, 2, 2, 3, 4])
    a, b = np.array([1, 1, 1, 1, 1, 1, 0, 1], dtype=bool), np.array([0, 0, 0, 0, 0, 0, 1, 1], dtype=bool)
    sums = np.bincount(groups, a.astype(int) - b.astype(int))
    flips = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    assert paired_difference(a, b, groups).p_value == pytest.approx(np.mean(abs(flips @ sums) >= abs(sums.sum())))
    assert stats.binomtest(7, 8).pvalue < paired_difference(a, b, groups).p_value


def test_the_split_beside_a_checkpoint_is_copied_as_it_is_read(tmp_path: Path) -> None:
    for folder, content in ((tmp_path, "of another run"), (tmp_path / "flat", "its own")):
        folder.mkdir(exist_ok=True)
        (folder / "split.csv").write_text(content)
    (tmp_path / "copy").mkdir()
    copy_split_file(tmp_path / "flat/best.ckpt", tmp_path / "copy")
    assert (tmp_path / "copy/split.csv").read_text() == "its own"
