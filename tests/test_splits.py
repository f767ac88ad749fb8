"""Layouts of folders, and splits that are cut by class and by groups of near copies."""

import csv
import hashlib
import json
import logging
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from image_lists import data_settings, scan
from sports_lightning import CONF_DIR
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.data.folder_layout import SPLITS
from sports_lightning.data.image_folder import list_image_folder
from sports_lightning.errors import UserError
from sports_lightning.runs.resume import load_config
from sports_lightning.split.assignment import assign
from sports_lightning.split.dataset import open_dataset
from sports_lightning.split.groups import join_groups
from sports_lightning.split.near_copies import compare_in_any_order
from sports_lightning.split.split_file import with_split_of, write_split_file
from sports_lightning.storage.files import write_csv


def draw(path: Path, seed: int) -> None:
    """A small image of smooth random colors, which is no near copy of those with other seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """20 images in each of the class folders a, b and c; image 1 of a has a near copy and an identical one."""
    root = tmp_path / "flat"
    for c, name in enumerate("abc"):
        for i in range(20):
            draw(root / name / f"{i:02d}.png", 100 * c + i)
    with Image.open(root / "a/01.png") as image:
        image.resize((64, 64), Image.Resampling.BICUBIC).save(root / "a/scaled.png")
    shutil.copy(root / "a/01.png", root / "a/same.png")
    return root


def opened(root: Path, **changes: object) -> DatasetIndex:
    return open_dataset(data_settings(root, **changes), ["train", "val", "test"], may_cut=True)


def split_of(index: DatasetIndex) -> dict[str, str]:
    return {path: split for split, images in index.splits.items() for path in images.paths}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("Train", "VAL", "Testing"),
        ("training", "validation", "test"),
        ("TRAIN", "dev", "TEST"),
    ],
)
def test_splits_are_recognized_by_their_usual_names(names: tuple[str, ...], tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "archive"):
        for split, name in enumerate(names):
            for label in "ab":
                draw(root / name / label / "1.png", 10 * split)
        for where in (root, root.parent) if root != tmp_path else (root,):
            if where == tmp_path and root != tmp_path:
                for name in names:
                    shutil.rmtree(tmp_path / name)
            table = list_image_folder(where)
            assert [SPLITS[split] for split in table.splits] == ["train", "train", "val", "val", "test", "test"]


def test_ambiguous_layouts_are_errors_that_name_both(tmp_path: Path) -> None:
    for name in ("train", "valid", "validation"):
        draw(tmp_path / "two" / name / "a/1.png", 0)
    with pytest.raises(UserError, match="two folders for the split val, valid/ and validation/"):
        list_image_folder(tmp_path / "two")
    for name in ("cat", "dog", "test"):
        draw(tmp_path / "class" / name / "1.png", 0)
    with pytest.raises(UserError, match="test/, which could be a split, and cat/, which could be a class"):
        list_image_folder(tmp_path / "class")
    for name in ("birds", "fish"):
        draw(tmp_path / "sets" / name / "train/a/1.png", 0)
    with pytest.raises(UserError, match="holds several datasets with splits, such as birds and fish"):
        list_image_folder(tmp_path / "sets")


def test_train_beside_other_vehicles_is_a_class(tmp_path: Path) -> None:
    for name in ("car", "train", "ship"):
        draw(tmp_path / name / "1.png", 0)
    assert list_image_folder(tmp_path).classes == {"": ["car", "ship", "train"]}


def test_leaf_folders_are_classes(tmp_path: Path) -> None:
    for leaf in ("animals/cat", "animals/big/lion", "cars/sedan"):
        draw(tmp_path / leaf / "1.png", 0)
    assert list_image_folder(tmp_path, leaf_classes=True).classes == {"": ["cat", "lion", "sedan"]}
    assert list_image_folder(tmp_path).classes == {"": ["animals", "cars"]}
    draw(tmp_path / "cars/cat/1.png", 0)
    with pytest.raises(UserError, match="two folders of the class 'cat', animals/cat/ and cars/cat/"):
        list_image_folder(tmp_path, leaf_classes=True)


def test_links_are_followed_once_and_loops_refused(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere/1.png", 0)
    root = tmp_path / "root"
    for label in "ab":
        draw(root / label / "1.png", 0)
        (root / label / "link").symlink_to(tmp_path / "elsewhere")
        (root / label / "same").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    table = list_image_folder(root)
    assert list(table.paths) == ["a/1.png", "a/link/1.png", "b/1.png", "b/link/1.png", "c/1.png"]
    (root / "a/loop").symlink_to(root)
    with pytest.raises(UserError, match=r"a/loop links to .*root, which contains it"):
        list_image_folder(root)


def test_a_split_is_stratified_and_keeps_near_copies_together(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        index = opened(flat)
    assert {name: len(images) for name, images in index.splits.items()} == {"train": 50, "val": 6, "test": 6}
    for name in ("val", "test"):
        assert index.class_counts(name) == [2, 2, 2]
    found = split_of(index)
    assert found["a/01.png"] == found["a/same.png"] == found["a/scaled.png"]
    assert "flat has class folders and no splits" in caplog.text
    assert "1 groups of near copies" in caplog.text
    assert not scan(flat, flat / ".cache").leaking


def test_near_copies_do_not_depend_on_the_order_of_the_images(flat: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(flat).as_posix() for path in flat.rglob("*.png"))
    digests = [hashlib.blake2b((flat / path).read_bytes()).hexdigest() for path in paths]
    _, pairs = compare_in_any_order(flat, paths, digests, None, tmp_path / "cache")
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    shuffled = [paths[i] for i in order], [digests[i] for i in order]
    thumbnails, again = compare_in_any_order(flat, *shuffled, None, tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "scan").iterdir())) == 1, "compared once"
    before = {frozenset((digests[a], digests[b])) for a, b, *_ in pairs}  # identical files stand for one another
    assert before == {frozenset((shuffled[1][a], shuffled[1][b])) for a, b, *_ in again}
    assert len(pairs) == 2
    with Image.open(flat / shuffled[0][0]) as image:
        expected = image.convert("L").resize((32, 32), Image.Resampling.BOX)
    assert np.abs(thumbnails.small[0].astype(int) - np.asarray(expected)).max() <= 1


def test_a_split_depends_on_the_content_of_images_only(flat: Path, tmp_path: Path) -> None:
    before = opened(flat)
    for number, path in enumerate(sorted(flat.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"renamed{number}.png"))
    after = opened(flat)
    for name in SPLITS:
        assert set(before.splits[name].digests) == set(after.splits[name].digests)
    other = opened(flat, split={"seed": 1})
    assert set(other.splits["test"].digests) != set(after.splits["test"].digests)


def test_images_that_are_added_leave_the_earlier_split_as_it_is(flat: Path, tmp_path: Path) -> None:
    first = run_command("split", f"data.root={flat}", cwd=tmp_path)
    file = Path(first.stdout.splitlines()[-1]) / "split.csv"
    before = {row["image"]: row["split"] for row in csv.DictReader(file.open())}
    for i in range(20):
        draw(flat / "b" / f"new{i}.png", 500 + i)
    test_image = next(path for path, split in before.items() if split == "test")
    shutil.copy(flat / test_image, flat / f"{test_image}.copy.png")
    after = split_of(opened(flat, split={"previous": str(file)}))
    assert {path: after[path] for path in before} == before
    assert after[f"{test_image}.copy.png"] == "test"
    assert sorted(after[f"b/new{i}.png"] for i in range(20)) == ["test"] * 2 + ["train"] * 16 + ["val"] * 2


@pytest.mark.parametrize("kind", ["decomposed", "absolute", "without extension"])
def test_the_images_of_an_earlier_split_are_known_in_other_forms(flat: Path, tmp_path: Path, kind: str) -> None:
    for path in (flat / "b").iterdir():
        path.rename(path.with_name(f"\u00e9{path.name}"))
    before = split_of(opened(flat))
    forms: dict[str, Callable[[str], str]] = {
        "decomposed": lambda path: unicodedata.normalize("NFD", path),
        "absolute": lambda path: str(flat / path),
        "without extension": lambda path: path.removesuffix(".png"),
    }
    write_csv(
        tmp_path / "split.csv", ["image", "label", "split"], [[forms[kind](p), "x", s] for p, s in before.items()]
    )
    draw(flat / "b" / "new.png", 500)
    after = split_of(opened(flat, split={"previous": str(tmp_path / "split.csv")}))
    assert {path: after[path] for path in before} == before


def test_class_names_are_the_same_from_a_folder_and_from_its_split(flat: Path, tmp_path: Path) -> None:
    """As on every rank, and after an interruption."""
    (flat / "a").rename(flat / unicodedata.normalize("NFD", "\u00e9t\u00e9"))
    (flat / "b").rename(flat / os.fsdecode(b"caf\xe9"))
    cfg = data_settings(flat)
    index = open_dataset(cfg, ["train", "val", "test"], may_cut=True)
    write_split_file(index, cfg, tmp_path)
    again = open_dataset(with_split_of(tmp_path, cfg), ["train", "val", "test"])
    assert again.classes == index.classes == sorted(index.classes)
    assert "\u00e9t\u00e9" in index.classes
    for split in ("train", "val", "test"):
        assert again.fingerprint(split) == index.fingerprint(split)


def test_a_split_of_the_user_is_neither_overwritten_nor_removed(flat: Path, few: Path, tmp_path: Path) -> None:
    (run := tmp_path / "run").mkdir()
    (run / "split.csv").write_text("image,label,split\n")
    (run / "notes").mkdir()
    settings = [*FAST, "model=timm", "model.name=resnet51", f"hydra.run.dir={run}"]
    refused = try_command("train", *settings, f"data.root={flat}")
    assert_error_line(refused, "holds a split.csv that no run has written: move it")
    assert_error_line(try_command("train", *settings, f"data.root={few}"), "resnet51")
    assert (run / "split.csv").read_text() == "image,label,split\n"
    assert (run / "notes").is_dir()


def test_only_a_missing_split_is_cut(flat: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for split, low in (("train", 0), ("test", 15)):
        for name in "abc":
            for i in range(low, low + 15):
                if (flat / name / f"{i:02d}.png").exists():
                    target = root / split / name / f"{i:02d}.png"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(flat / name / f"{i:02d}.png", target)
    index = opened(root)
    assert {name: len(images) for name, images in index.splits.items()} == {"train": 41, "val": 4, "test": 15}
    (root / "test").rename(root / "valid")
    with pytest.raises(UserError, match=r"test is missing: .*data.split.test=0.1 takes one from train"):
        opened(root)
    index = opened(root, split={"test": 0.2})
    assert {name: len(images) for name, images in index.splits.items()} == {"train": 36, "val": 15, "test": 9}


def test_folds_are_disjoint_and_leave_an_existing_test_split_out(flat: Path) -> None:
    tests = [set(opened(flat, folds=3, fold=fold).splits["test"].paths) for fold in range(3)]
    assert set().union(*tests) == {path.relative_to(flat).as_posix() for path in flat.glob("[abc]/*.png")}
    assert sum(map(len, tests)) == 62
    assert [len(paths) for paths in tests] in ([20, 21, 21], [21, 20, 21], [21, 21, 20])
    index = opened(flat, folds=3, fold=1)
    assert not set(index.splits["train"].paths) & set(index.splits["val"].paths)


def test_assignment_meets_the_shares_and_respects_groups() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 7, 3000)
    groups = np.where(draws.random(3000) < 0.3, draws.integers(0, 300, 3000), np.arange(300, 3300))
    counts = np.bincount(labels)
    parts = assign(labels, groups, counts[:, None] * [0.8, 0.1, 0.1], draws, np.full(3000, -1))
    for group in np.unique(groups):
        assert len(np.unique(parts[groups == group])) == 1
    for label in range(7):
        assert abs(np.bincount(parts[labels == label]) - counts[label] * np.array([0.8, 0.1, 0.1])).max() <= 1


def test_groups_are_joined_by_pairs_and_by_names() -> None:
    assert join_groups(6, [(0, 3), (3, 4)]).tolist() == [0, 1, 2, 0, 0, 3]
    assert join_groups(6, [(0, 3)], np.array([5, 4, 5, 6, 7, 4])).tolist() == [0, 1, 0, 0, 2, 1]
    assert join_groups(2, []).tolist() == [0, 1]


def test_timm_reads_the_links_that_the_docs_make_from_a_split(flat: Path, tmp_path: Path) -> None:
    run_command("split", f"data.root={flat}", "hydra.run.dir=out")
    page = (CONF_DIR.parent / "docs/train.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import csv, os\n.*?)```", page, re.DOTALL)
    exec(code.replace("split.csv", "out/split.csv").replace("IMAGES", str(flat)))
    counts = json.loads((tmp_path / "out/split.json").read_text())["images"]
    for split, count in counts.items():
        found = timm.data.create_dataset("", root="LINKS", split=split)
        assert len(found) == count
        assert list(found.reader.class_to_idx) == ["a", "b", "c"]


def test_too_few_images_are_one_line(tmp_path: Path) -> None:
    for name in "ab":
        draw(tmp_path / "one" / name / "1.png", ord(name))
    assert "no image is left for val" in try_command("split", f"data.root={tmp_path / 'one'}", cwd=tmp_path).stderr
    assert not list(tmp_path.rglob("split.csv"))
    found = try_command("split", f"data.root={tmp_path / 'one'}", "data.folds=3", "data.fold=3", cwd=tmp_path)
    assert found.stderr == "error: data.fold=3 does not exist: the 3 folds are numbered from 0\n"


@pytest.mark.slow
def test_a_run_on_an_unsplit_folder_keeps_its_split(flat: Path, tmp_path: Path) -> None:
    arguments = [*FAST, "data=folder", f"data.root={flat}", "model=scratch_cnn", "logger=csv", "trainer.max_epochs=1"]
    run = Path(run_command("train", *arguments, cwd=tmp_path).stdout.splitlines()[-1])
    before = (run / "split.csv").read_text()
    for name in "abc":
        draw(flat / name / "later.png", ord(name))
    evaluated = run_command("evaluate", f"ckpt_path={run}/checkpoints/best.ckpt", cwd=tmp_path)
    predictions = Path(evaluated.stdout.splitlines()[-1]) / "predictions.csv"
    assert predictions.read_bytes() == (run / "predictions.csv").read_bytes()
    assert "leaks: unknown" not in evaluated.stdout
    assert load_config(run)["data"]["manifest"] is None
    refused = try_command("evaluate", f"ckpt_path={run}/checkpoints/best.ckpt", f"data.root={flat}", cwd=tmp_path)
    assert "has no splits: to use those of a training, set data.manifest=RUN/split.csv" in refused.stderr
    manifest = [f"data.manifest={run / 'split.csv'}", f"data.root={flat}"]
    same = run_command("evaluate", f"ckpt_path={run}/checkpoints/best.ckpt", *manifest, cwd=tmp_path)
    assert (Path(same.stdout.splitlines()[-1]) / "predictions.csv").read_bytes() == predictions.read_bytes()
    assert (run / "split.csv").read_text() == before
    (run / "report.html").unlink()
    run_command("report", f"run={run}", cwd=tmp_path)
    assert (run / "report.html").exists()
