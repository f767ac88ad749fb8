"""Odd layouts, manifests and groups: splits keep their promises, or one line says why there is none."""

import csv
import json
import logging
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from commands import run_command, try_command
from conftest import assert_error_line
from image_lists import data_settings
from sports_lightning.data.folder_layout import SPLITS, recognize
from sports_lightning.data.image_folder import list_image_folder
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.data.manifest import COLUMNS, read_manifest
from sports_lightning.errors import UserError
from sports_lightning.split.cut import TEST, TRAIN, VAL, cut
from sports_lightning.split.dataset import open_dataset
from sports_lightning.storage.packed_strings import PackedStrings
from test_splits import draw, split_of

DEFAULT = {name: name for name in COLUMNS}


def table_of(labels: list[int], groups: list[int] | None, splits: list[int] | None = None) -> ImageTable:
    names = [f"c{i}" for i in range(max(labels) + 1)]
    given = np.array(splits or [UNASSIGNED] * len(labels), dtype=np.int8)
    classes = {"": names} if (given == UNASSIGNED).any() else {"train": names}
    paths = PackedStrings(f"{i}.png" for i in range(len(labels)))
    numbers = None if groups is None else np.array(groups)
    return ImageTable(Path("x"), names, paths, np.array(labels), given, numbers, classes, {"": "x", "train": "x"}, "")


def cut_splits(table: ImageTable, pairs: list[tuple[int, int]], **split: Any) -> dict[str, int]:
    data = OmegaConf.merge(data_settings(Path("x")), {"split": split})
    digests = [f"{i * 7919 % 10007:05d}" for i in range(len(table))]
    found = cut(table, digests, pairs, data)  # type: ignore[arg-type]
    return dict(zip(found.paths, found.splits.tolist(), strict=True))


def _assert_none_left(error: UserError) -> None:
    assert "no image is left for" in str(error)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), min_size=30, max_size=120),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=10),
    st.floats(0.05, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 3),
)
def test_no_group_is_in_two_splits_and_every_class_is_in_train(
    rows: list[tuple[int, int]], pairs: list[tuple[int, int]], val: float, test: float, seed: int
) -> None:
    labels = [*range(6), *(label for label, _ in rows)]
    groups = [*range(100, 106), *(group for _, group in rows)]
    try:
        found = cut_splits(table_of(labels, groups), pairs, val=val, test=test, seed=seed)
    except UserError as error:
        _assert_none_left(error)
        return
    splits = [found[f"{i}.png"] for i in range(len(labels))]
    for group in set(groups):
        assert len({split for split, other in zip(splits, groups, strict=True) if other == group}) == 1
    for first, second in pairs:
        assert splits[first] == splits[second]
    assert {label for label, split in zip(labels, splits, strict=True) if split == TRAIN} == set(labels)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=30), st.floats(0.02, 0.6), st.floats(0, 0.39))
def test_shares_are_met_within_one_image_where_groups_are_single(counts: list[int], val: float, test: float) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    try:
        found = cut_splits(table_of(labels, None), [], val=val, test=test)
    except UserError as error:
        _assert_none_left(error)
        return
    parts = np.array([found[f"{i}.png"] for i in range(len(labels))])
    for label, count in enumerate(counts):
        sizes = np.bincount(parts[np.array(labels) == label], minlength=3)
        assert sizes[TRAIN] >= 1
        assert abs(sizes[VAL] - val * count) <= 1
        assert abs(sizes[TEST] - test * count) <= 1


def test_classes_with_one_free_image_beside_given_ones_are_in_train() -> None:
    labels = [label for label in range(9) for _ in range(10)]
    splits = [TEST if i % 10 else UNASSIGNED for i in range(90)]
    table = table_of(labels + [9] * 9, None, splits + [UNASSIGNED] * 9)
    found = cut_splits(table, [])
    assert [found[f"{10 * label}.png"] for label in range(9)] == [TRAIN] * 9


def test_layouts_that_could_be_classes_are_refused(tmp_path: Path) -> None:
    for folder in ("two/train", "two/bus", "data/set/train/a", "data/set/test/a", "data/single_prediction"):
        draw(tmp_path / folder / "1.png", 0)
    with pytest.raises(UserError, match="train/, which could be a split, and bus/, which could be a class"):
        recognize(tmp_path / "two")
    with pytest.raises(UserError, match=r"folder set/ with splits, and single_prediction/, .* data.root=.*data/set"):
        recognize(tmp_path / "data")


def images(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        draw(folder / name, seed)


def rows(file: Path, root: Path | None = None) -> list[tuple[str, str]]:
    table = read_manifest(file, root, DEFAULT)
    return [(path, table.names[label]) for path, label in zip(table.paths, table.labels.tolist(), strict=True)]


def test_manifests_in_other_encodings_and_forms_are_read(tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    images(tmp_path, [split, " space.png", "dir/b.png"])
    text = f"image, label\r\n{composed},1\r\n space.png,cat\r\ndir/../dir/b.png,'1.5\r\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-8", newline="")
    expected = [(" space.png", "cat"), (split, "1"), ("dir/b.png", "1.5")]
    assert sorted(rows(tmp_path / "m.csv")) == sorted(expected)
    (tmp_path / "m.csv").write_text(text.replace(",", "\t"), encoding="utf-16", newline="")
    assert sorted(rows(tmp_path / "m.csv")) == sorted(expected)


def test_columns_that_the_first_row_lacks_are_read(tmp_path: Path) -> None:
    images(tmp_path, ["1.png", "2.png", "3.png"])
    lines: list[dict[str, Any]] = [
        {"image": "1.png", "label": "a", "group": float("nan")},
        {"image": "2.png", "label": "b", "split": "test", "group": 7},
        {"image": 3, "label": 5, "group": float("nan")},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table = read_manifest(tmp_path / "m.jsonl", None, DEFAULT)
    assert dict(zip(table.paths, table.splits.tolist(), strict=True)) == {"1.png": -1, "2.png": TEST, "3.png": -1}
    assert table.groups is not None
    assert len(set(table.groups.tolist())) == 3, "NaN is no group"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": ["1.png"], "label": "a"}', r"row 1: the image \['1.png'\] is no path"),
        ('{"image": "1.png", "label": ["a"]}', "row 1: the label .* is no name of a class"),
        ('{"image": "1.png", "label": true}', "row 1: the label True is no name of a class"),
        ('{"image": "1.png"}', "no column 'label'"),
        ('{"image": "a\\nb", "label": "a"}', r"row 1: there is no image a\\nb in"),
        ('{"image": "both", "label": "a"}', "row 1: the image both could be both.jpg or both.png"),
        ("[1]", "row 1: not a JSON object"),
    ],
)
def test_json_lines_of_wrong_types_are_named(text: str, message: str, tmp_path: Path) -> None:
    images(tmp_path, ["1.png", "both.png", "both.jpg"])
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(UserError, match=message) as found:
        rows(tmp_path / "m.jsonl")
    assert "\n" not in str(found.value)


def test_csv_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    images(tmp_path, ["1.png"])
    for content in (
        b"image,label,image\n1.png,a,1.png\n",
        b'image,label\n"' + b"x" * 200_000 + b'",a\n',
        b"\0\xff\n\0",
    ):
        (tmp_path / "m.csv").write_bytes(content)
        with pytest.raises(UserError) as found:
            rows(tmp_path / "m.csv")
        assert "\n" not in str(found.value)
        assert len(str(found.value)) < 1000


def test_parquet_labels_of_all_types(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images(tmp_path, ["1.png", "2.png"])
    names = ["1.png", "2.png"]
    for labels in (pyarrow.array([3, 4]), pyarrow.array(["3", "4"]).dictionary_encode()):
        parquet.write_table(pyarrow.table({"image": names, "label": labels}), tmp_path / "m.parquet")
        assert rows(tmp_path / "m.parquet") == [("1.png", "3"), ("2.png", "4")]
    for labels in (pyarrow.array([3.0, 4.0]), pyarrow.array([None, "a"])):
        parquet.write_table(pyarrow.table({"image": names, "label": labels}), tmp_path / "m.parquet")
        with pytest.raises(UserError, match=r"row 1: the label (3.0 is no name|is empty)"):
            rows(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="can't be read"):
        rows(tmp_path / "m.parquet")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with names that tables and command lines treat in a special way, 10 images in each class."""
    for c, name in enumerate((" lead", "1.5", "nan", "=x", unicodedata.normalize("NFD", "é"), "'q", "a,b")):
        for i in range(10):
            draw(tmp_path / "my = root" / name / f"{c} {i:02d}.png", 100 * c + i)
    return tmp_path / "my = root"


def test_a_split_file_holds_odd_names(odd: Path, tmp_path: Path) -> None:
    run = Path(run_command("split", f"data.root='{odd}'", cwd=tmp_path).stdout.splitlines()[-1])
    index = open_dataset(data_settings(odd), ["train", "val", "test"], may_cut=True)
    settings = data_settings(odd, manifest=str(run / "split.csv"))
    again = open_dataset(settings, ["train", "val", "test"], index.classes)
    for split in SPLITS:
        assert set(again.splits[split].paths) == set(index.splits[split].paths)
        assert again.class_counts(split) == index.class_counts(split)


def test_an_earlier_split_is_kept_though_images_were_removed(odd: Path, tmp_path: Path) -> None:
    run = Path(run_command("split", f"data.root='{odd}'", cwd=tmp_path).stdout.splitlines()[-1])
    with (run / "split.csv").open(newline="") as file:
        before = {os.path.normpath(row["image"]): row["split"] for row in csv.DictReader(file)}
    removed = next(path for path, split in before.items() if split == "train")
    (odd / removed).unlink()
    draw(odd / "nan" / "new.png", 4000)
    after = split_of(
        open_dataset(data_settings(odd, split={"previous": str(run / "split.csv")}), ["train"], may_cut=True)
    )
    assert after.keys() - {"nan/new.png"} == {p for p, split in before.items() if split == "train"} - {removed}
    draw(tmp_path / "other/a/1.png", 0)
    draw(tmp_path / "other/b/1.png", 1)
    settings = data_settings(tmp_path / "other", split={"previous": str(run / "split.csv")})
    with pytest.raises(UserError, match="has no split of an image in"):
        open_dataset(settings, ["train"], may_cut=True)
    assert_error_line(
        try_command("split", f"data.root='{odd}'", "data.split.previous=a.csv", "data.folds=3", "data.fold=0"),
        "data.split.previous=a.csv and data.folds=3 exclude each other",
    )


def test_an_earlier_split_is_kept_where_only_val_is_cut(tmp_path: Path) -> None:
    for i in range(30):
        draw(tmp_path / "d/train" / "ab"[i % 2] / f"{i}.png", i)
        draw(tmp_path / "d/test" / "ab"[i % 2] / f"{i}.png", 100 + i)
    run = Path(run_command("split", f"data.root={tmp_path}/d", cwd=tmp_path).stdout.splitlines()[-1])
    first = split_of(open_dataset(data_settings(tmp_path / "d"), list(SPLITS), may_cut=True))
    for i in range(30):
        draw(tmp_path / "d/train" / "ab"[i % 2] / f"new{i}.png", 200 + i)
    settings = data_settings(tmp_path / "d", split={"previous": str(run / "split.csv")})
    after = split_of(open_dataset(settings, list(SPLITS), may_cut=True))
    assert {path: after[path] for path in first} == first


def test_unreadable_images_are_left_out_of_the_cut(odd: Path, caplog: pytest.LogCaptureFixture) -> None:
    (odd / "nan" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UserError, match=r"1 unreadable: .*bad.png"):
        open_dataset(data_settings(odd), ["train"], may_cut=True)
    with caplog.at_level(logging.INFO):
        index = open_dataset(data_settings(odd, skip_unreadable=True), list(SPLITS), may_cut=True)
    assert sum(map(len, index.splits.values())) == 70
    for path in (odd / "nan").glob("2*.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UserError, match="'nan'"):
        open_dataset(data_settings(odd, skip_unreadable=True), list(SPLITS), may_cut=True)


def test_a_manifest_gives_the_same_split_as_the_folder(odd: Path, tmp_path: Path) -> None:
    paths = sorted(odd.rglob("*.png"), reverse=True)
    lines = [{"image": path.relative_to(odd).as_posix(), "label": path.parent.name} for path in paths]
    for line in lines:
        line["label"] = f"'{line['label']}" if line["label"] in (" lead", "1.5", "nan") else line["label"]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = data_settings(odd, manifest=str(tmp_path / "m.jsonl"))
    found = split_of(open_dataset(settings, list(SPLITS), may_cut=True))
    assert found == split_of(open_dataset(data_settings(odd), list(SPLITS), may_cut=True))


def test_links_between_two_classes_end(tmp_path: Path) -> None:
    for name, other in ("ab", "ba"):
        draw(tmp_path / name / "1.png", ord(name))
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    assert list(list_image_folder(tmp_path).paths) == ["a/1.png", "a/link/1.png", "b/1.png", "b/link/1.png"]


def test_more_folds_than_images_are_one_line(tmp_path: Path) -> None:
    for i in range(8):
        draw(tmp_path / "few" / "ab"[i % 2] / f"{i}.png", i)
    found = try_command("split", f"data.root={tmp_path}/few", "data.folds=50", "data.fold=49", cwd=tmp_path)
    assert "error: data.folds=50: fold 49 gets none of the 8 images: set fewer" in found.stderr
    assert not list(tmp_path.rglob("split.csv"))
