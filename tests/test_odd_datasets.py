"""Odd datasets: leftovers of operating systems, nested folders, Unicode forms, missing classes."""

import logging
import os
import random
import unicodedata
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands import try_command
from conftest import assert_error_line
from image_lists import data_settings, list_index, scan
from sports_lightning.audit.findings import collect_findings, summary
from sports_lightning.data.augment import PairMix
from sports_lightning.data.class_names import misspelled_classes
from sports_lightning.data.dataset import TrainingImages, fixed_augmentation, seed_draws
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.data.decoded_cache import ImageFiles, open_images
from sports_lightning.data.image_folder import check_outside_classes, list_images
from sports_lightning.data.leftovers import LINK, describe_ignored
from sports_lightning.data.source import list_dataset
from sports_lightning.errors import UserError
from sports_lightning.predict.inputs import find_inputs
from sports_lightning.reports import plots
from sports_lightning.split.dataset import open_dataset
from sports_lightning.storage.files import read_csv, write_csv

SPLITS = {"train": "train", "val": "valid", "test": "test"}


def save(path: Path, value: int = 0, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, dtype)).save(path)


def open_at(root: Path, *splits: str, skip_unreadable: bool = False) -> DatasetIndex:
    return open_dataset(data_settings(root, skip_unreadable=skip_unreadable, max_pixels=10**6), list(splits))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, split in enumerate(SPLITS.values()):
        for i, name in enumerate("abc"):
            save(tmp_path / split / name / "1.png", 10 * number + i)
    return tmp_path


LEFTOVERS = ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle", "@Recycle")
LEFTOVERS += (".thumbnails", ".@__thumb", ".ipynb_checkpoints", "#snapshot")


def test_a_link_to_a_folder_beside_it_is_not_followed(tmp_path: Path) -> None:
    for name in ("z/1.png", ".hidden/2.png", "b/c/3.png"):
        save(tmp_path / name)
    for link, target in (("a", "z"), ("b/z", "../z"), ("h", ".hidden"), ("zz", "b/c")):
        (tmp_path / link).symlink_to(target)
    ignored: Counter[str] = Counter()
    assert list_images(tmp_path, ignored) == ["b/c/3.png", "h/2.png", "z/1.png"]
    assert ignored[LINK] == 3


def test_leftovers_are_skipped_and_other_files_counted(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in LEFTOVERS:
        save(tree / "train" / folder / "1.png")
        save(tree / "train" / "a" / folder / "1.png")
    for name in ("Thumbs.db", ".DS_Store", "._1.png", "Icon\r", "notes.txt", "more.TXT", "noextension"):
        (tree / "train" / "a" / name).write_text("x")
    save(tree / "train" / "loose.png")
    save(tree / "elsewhere" / "1.png")
    (tree / "train" / "a" / "link").symlink_to(tree / "elsewhere")
    (tree / "train" / "a" / "same").symlink_to(tree / "elsewhere")
    with caplog.at_level(logging.INFO):
        index = list_index(tree, ["train"])
        list_dataset(data_settings(tree))
        found = find_inputs([f"{tree}/train", f"{tree}/**/*.png"])
    assert index.classes == ["a", "b", "c"]
    assert list(index.splits["train"].paths) == [f"train/{name}/1.png" for name in ("a", "a/link", "b", "c")]
    line = "2 .txt, 1 image outside the class folders, 26 leftovers, 1 linked folder, 1 no extension"
    assert f"skipped: {line}" in caplog.messages
    ignored = scan(tree, tree / "cache").ignored
    assert describe_ignored(ignored) == line
    assert not [path for path in found if "@eaDir" in path or "recycle" in path]
    assert find_inputs([f"{tree}/train/a/@eaDir/*.png"]), "named by the user"


def test_a_folder_that_cannot_be_listed_is_not_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    (tree / "train" / "a" / "secret").mkdir()
    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match="secret: Permission denied"):
        list_index(tree, ["train"])


def test_nested_folders_and_images_in_two_classes_are_named(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tree / "train" / "a" / "deep" / "2.png", 77)
    save(tree / "train" / "b" / "2.png", 77)
    save(tree / "valid" / "a" / "deeper" / "still" / "2.png", 78)
    with caplog.at_level(logging.INFO):
        index = open_at(tree, "train", "val")
    assert index.class_counts("train") == [2, 2, 1]
    line = "taken together as one class: 'a' ('deep', 'deeper')"
    assert [message for message in caplog.messages if line in message]
    assert "such as train/a/deep/2.png and train/b/2.png, 1 in all" in caplog.text
    found = collect_findings(scan(tree, tree / "cache"))
    assert summary(found)["folders taken together"] == "'a' ('deep', 'deeper')"
    assert summary(found)["pairs under two labels"] == "1"


def test_classes_one_level_too_deep_are_named(tree: Path) -> None:
    (tree / "animals" / "train").mkdir(parents=True)
    (tree / "train").rename(tree / "animals" / "train" / "all")
    with pytest.raises(UserError, match=r"one class only, 'all'.*; data.classes=leaf takes the folders"):
        list_index(tree / "animals", ["train"])


def test_unicode_forms_of_a_name_are_one_class(tree: Path) -> None:
    forms = [unicodedata.normalize(form, "Café") for form in ("NFC", "NFD")]
    for split in SPLITS.values():
        save(tree / split / forms[split != "train"] / "1.png", 99)
    save(tree / "train" / forms[1] / "2.png", 98)
    index = open_at(tree, "train", "val", "test")
    assert len(index.classes) == 4
    assert sorted(index.class_counts("train")) == [1, 1, 1, 2]
    assert index.class_counts("val") == [1, 1, 1, 1]
    found = scan(tree, tree / "cache")
    assert set(found.labels) == set(index.classes)
    assert found.fingerprint("train") == index.fingerprint("train")


def test_a_class_may_be_missing_in_val_but_not_in_train(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree / "valid" / "b" / "1.png").unlink()
    (tree / "valid" / "b").rmdir()
    index = open_at(tree, "train", "val")
    assert index.class_counts("val") == [1, 0, 1]
    assert "valid has no images of b" in caplog.text
    (tree / "train" / "c" / "1.png").unlink()
    with pytest.raises(UserError, match="'c' has no images"):
        open_at(tree, "train")


def test_a_test_folder_without_classes_names_predict(tree: Path) -> None:
    for name in "abc":
        (tree / "test" / name / "1.png").rename(tree / "test" / f"{name}.png")
        (tree / "test" / name).rmdir()
    with pytest.raises(UserError, match="test=false and label them with predict input="):
        open_at(tree, "test")
    save(tree / "test" / "unsorted" / "1.png")  # beside the images, or instead of them
    with pytest.raises(UserError, match=r"'unsorted'.*test=false and label them with predict input="):
        open_at(tree, "train", "test")


def test_a_cache_needs_digests(tree: Path) -> None:
    with pytest.raises(AssertionError, match="digests"):
        open_images(tree, Split(["train/a/1.png"], [0]), 8, "disk", tree / "cache")


@pytest.mark.parametrize("views", [None, 2])
def test_partners_decoded_in_parallel_change_no_draw(tree: Path, views: int | None) -> None:
    split = list_index(tree, ["train"]).splits["train"]
    files, mix = ImageFiles(tree, split, None), PairMix(3, 0.4, 1)

    def transform(epoch: int):  # type: ignore[no-untyped-def]
        return lambda image: (image + torch.randint(50, ()) + random.randrange(9) + np.random.randint(9)).byte()

    dataset = TrainingImages(files, split.labels, transform, 3, mix, views)
    keys = [(epoch, index, repeat) for epoch in (0, 5) for index in range(3) for repeat in (0, 1)]
    for key, (image, target) in zip(keys, dataset.__getitems__(keys), strict=True):  # type: ignore[arg-type]
        epoch, index, repeat = key
        if views:
            epoch, repeat = fixed_augmentation(epoch, repeat, views), 0
        seed_draws(3, epoch, index, repeat)
        first = transform(epoch)(files(index))
        partner = int(torch.randint(3, ()))
        expected = mix(torch.stack([first, transform(epoch)(files(partner))]), torch.tensor([index, partner]))
        assert torch.equal(image, expected[0])
        assert torch.equal(target, expected[1])  # type: ignore[arg-type]


def test_names_that_are_not_utf_8_are_drawn_and_written_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    save(tmp_path / "a.png")
    plots.confusion_matrix(torch.eye(2), [name, "b"], tmp_path / "matrix.png")
    plots.image_grid([tmp_path / "a.png"], [f"{name}\nis b"], tmp_path / "grid.png")
    write_csv(tmp_path / "a.csv", ["label", "path"], [[name, f"{name}/a.png"]])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[1] == "caf\\udce9,caf\\udce9/a.png"
    (tmp_path / "b.csv").write_bytes(b"label\ncaf\xe9\n")  # of version 0.1
    assert read_csv(tmp_path / "b.csv") == [{"label": name}]


@pytest.mark.parametrize("name", ["cat 🦊", "猫", "ক্ষ"])
def test_a_character_that_the_font_lacks_is_drawn_without_a_warning(name: str, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.confusion_matrix(torch.eye(2), [name, "b"], tmp_path / "matrix.png")
        plots.image_grid([tmp_path / "a.png"], [name], tmp_path / "grid.png")


def test_classes_in_other_spellings_are_recognized(tree: Path) -> None:
    names = ["cat", "Cat ", "polar-bear", "polarbear", "fox", "-"]
    expected = {"cat": "Cat", "Cat ": "Cat", "polar-bear": "Polar_bear", "polarbear": "Polar_bear"}
    assert misspelled_classes(names, ["Cat", "Polar_bear", "_", "c at s"]) == expected
    (tree / "valid/a").rename(tree / "valid/A ")
    with pytest.raises(UserError, match=r"unknown class 'A ': .*; rename 'A ' to 'a'"):
        list_index(tree, list(SPLITS))


@pytest.mark.slow
def test_a_run_folder_among_the_images_is_refused(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(tree / "valid", target_is_directory=True)
    for folder in (tree / "train", tree / "test/a/run", tree / "train/../valid/run", link / "run"):
        with pytest.raises(UserError, match="whose folders are the classes: choose another run_dir"):
            check_outside_classes(folder, tree, "run_dir")
    for folder in (tree, tree / "runs", tree / "training", tree.parent):
        check_outside_classes(folder, tree, "run_dir")
    before = sorted(tree.rglob("*"))
    arguments = ["data=folder", f"data.root={tree}", "model=scratch_cnn"]
    for more in (["hydra.run.dir=train/run"], ["-m", "seed=0,1", "hydra.sweep.dir=train"]):
        assert_error_line(try_command("train", *arguments, *more), "train, whose folders are the classes")
    assert_error_line(try_command("audit", *arguments[:2], "hydra.run.dir=test"), "test, whose folders are the classes")
    assert sorted(tree.rglob("*")) == before
