"""Manifests: tables of images, labels, splits and groups."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import run_command, try_command
from conftest import FAST
from image_lists import data_settings
from sports_lightning.data.arrow_images import has_row
from sports_lightning.data.folder_layout import SPLITS
from sports_lightning.data.image_table import ImageTable
from sports_lightning.data.manifest import COLUMNS, _ImageFinder, _read_rows, class_name, label_cell, read_manifest
from sports_lightning.errors import UserError
from sports_lightning.split.dataset import open_dataset
from sports_lightning.storage.files import read_csv, write_csv

DEFAULT = {name: name for name in COLUMNS}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.write_text(text, encoding=encoding)
    return file


def rows(table: ImageTable) -> list[tuple[str, str, str]]:
    splits = ["" if split < 0 else SPLITS[split] for split in table.splits]
    return list(zip(table.paths, (table.names[label] for label in table.labels), splits, strict=True))


EXPECTED = [("02.png", "dog", "train"), ("01.png", "cat", "val"), ("00.png", "cat", "test")]


@pytest.mark.parametrize(
    "text",
    [
        "image,label,split\n00.png,cat,test\n01.png,cat,Validation\n02.png,dog,train\n",
        "image;label;split\r\n00.png;cat;test\r\n01.png;cat;dev\r\n02.png;dog;TRAIN\r\n",
        "\ufefflabel\tsplit\timage\ncat\ttest\t./00.png\ncat\tval\timages/01.png\ndog\ttrain\t02\n",
    ],
)
def test_csv_files_of_all_kinds_are_read(text: str, images: Path) -> None:
    table = read_manifest(write(images.parent / "m.csv", text), images, DEFAULT)
    assert rows(table) == EXPECTED
    assert table.root == images


def test_json_lines_and_parquet_are_read(images: Path) -> None:
    records = [{"image": f"{images}/{path}", "label": label, "split": split} for path, label, split in EXPECTED]
    lines = write(images / "m.jsonl", "\n".join(map(json.dumps, records)))
    assert rows(read_manifest(lines, None, DEFAULT)) == EXPECTED
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(records), images / "m.parquet")
    assert rows(read_manifest(images / "m.parquet", None, DEFAULT)) == EXPECTED


def test_other_column_names_and_names_without_extension(images: Path) -> None:
    file = write(images.parent / "train.csv", "id,breed,dog_id\n00,boxer,7\n01,pug,8\n02,pug,8\n")
    table = read_manifest(file, images, DEFAULT | {"image": "id", "label": "breed", "group": "dog_id"})
    assert rows(table) == [("00.png", "boxer", ""), ("01.png", "pug", ""), ("02.png", "pug", "")]
    assert table.groups is not None
    assert table.groups[1] == table.groups[2] != table.groups[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,class\n00.png,cat\n",
            "no column 'label' for the label: it has 'image', 'class'; set data.manifest",
        ),
        ("image,label\n00.png,cat\n../m.csv,cat\n", "row 3: .*m.csv is outside .*images: set data.root to a folder"),
        ("image,label\n00.png,cat\n/etc/hostname,cat\n", "row 3: /etc/hostname is outside .*images"),
        ("image,label\n00.png,cat\n99.png,cat\n", "row 3: there is no image 99.png in .*images or "),
        ("image,label\n00.png,\n", "row 2: the label is empty"),
        ("image,label\n00.png,  \n", "row 2: the label is empty"),
        ("image,label\n00.png,nan\n", "row 2: the label nan is no name of a class"),
        ("image,label\n00.png,0.37\n", "row 2: the label 0.37 is no name of a class: use a text or a whole number"),
        ("image,label\n,cat\n", "row 2: the image is empty"),
        ("image,label\n00.png\n", "row 2: not as many values as columns"),
        ("image,label,split\n00.png,cat,holdout\n", "row 2: the split 'holdout' must be train, val or test"),
        ("image,label\n00.png,cat\n./00.png,dog\n", "row 3: 00.png is the image of row 2, too"),
        ("image,label\n", "m.csv has no rows"),
        ("", "m.csv has no rows"),
    ],
)
def test_wrong_rows_are_named(text: str, message: str, images: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_manifest(write(images.parent / "m.csv", text), images, DEFAULT)


def test_whole_numbers_are_names_of_classes(images: Path) -> None:
    file = write(images / "m.csv", "image,label\n00.png,1\n01.png,0\n")
    assert rows(read_manifest(file, None, DEFAULT)) == [("01.png", "0", ""), ("00.png", "1", "")]


def by_number(images: Path, group: Callable[[int], int] = int) -> Path:
    lines = [f"{i:02d}.png,{'odd' if i % 2 else 'even'},{group(i)}" for i in range(40)]
    return write(images.parent / "m.csv", "\n".join(["image,label,group", *lines]))


def test_groups_stay_together(images: Path) -> None:
    file = by_number(images, lambda i: i // 4)
    index = open_dataset(data_settings(images, manifest=str(file)), ["train", "val", "test"], may_cut=True)
    groups = {name: {int(path[:2]) // 4 for path in split.paths} for name, split in index.splits.items()}
    assert sum(map(len, groups.values())) == 10
    assert index.class_counts("val") == index.class_counts("test") == [2, 2]
    one = by_number(images, lambda i: i % 2)
    with pytest.raises(UserError, match="no image is left for val"):
        open_dataset(data_settings(images, manifest=str(one)), ["train", "val"], may_cut=True)


def test_a_class_that_a_group_forces_out_of_train_is_named(images: Path) -> None:
    lines = ["00.png,rare,s,test", "01.png,rare,s,", *(f"{i:02d}.png,{'ab'[i % 2]},{i}," for i in range(2, 40))]
    file = write(images.parent / "m.csv", "\n".join(["image,label,group,split", *lines]))
    found = try_command("split", f"data.manifest={file}", f"data.root={images}", cwd=images.parent)
    assert "no image of the class 'rare' can be in train" in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.slow
def test_commands_work_on_a_manifest_as_on_folders(images: Path, tmp_path: Path) -> None:
    file = by_number(images)
    data = ["data=folder", f"data.manifest={file}", f"data.root={images}"]
    arguments = [*FAST[1:], *data, "model=scratch_cnn", "logger=csv", "trainer.max_epochs=1"]
    run = Path(run_command("train", *arguments, cwd=tmp_path).stdout.splitlines()[-1])
    with (run / "split.csv").open() as lines:
        splits = [row["split"] for row in csv.DictReader(lines)]
    assert [splits.count(name) for name in SPLITS] == [32, 4, 4]
    evaluated = run_command("evaluate", f"ckpt_path={run}/checkpoints/best.ckpt", cwd=tmp_path)
    predictions = Path(evaluated.stdout.splitlines()[-1]) / "predictions.csv"
    assert predictions.read_bytes() == (run / "predictions.csv").read_bytes()
    audit = run_command(
        "audit", f"data.manifest={run / 'split.csv'}", f"data.root={images}", "data=folder", cwd=tmp_path
    )
    assert "32 train + 4 val + 4 test" in audit.stdout
    assert "are identical to the last digit" in run_command("reproduce", f"run={run}", cwd=tmp_path).stdout


@pytest.mark.parametrize("name", ["1.5", "'1.5", "''nan", "'a", " a", "' a", "a", "007", "'"])
def test_a_class_name_survives_a_manifest(name: str) -> None:
    assert class_name("row 1", label_cell(name)) == name


def test_a_label_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("image,label\na.jpg,Fußball\n".encode("cp1252"))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"row 2: the label .* is not UTF-8: save the table as CSV UTF-8"):
        class_name(f"{tmp_path / 'list.csv'}, row 2", next(iter(_read_rows(tmp_path / "list.csv")))[1]["label"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", b"\xff\xfeI", "row 1: not a CSV file"),
        ("m.jsonl", b"\xff\xfe" + '{"image": "a.jpg"}'.encode("utf-16-le")[:-1], "row 0: not JSON"),
        ("m.csv", b"x" * 200_000 + b"\n", "row 1: not a CSV file"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        list(_read_rows(tmp_path / name))


def test_images_without_extension_are_found_below_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere/a/1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/images").symlink_to("../elsewhere")
    assert _ImageFinder(tmp_path / "m.csv", tmp_path / "root")(1, "images/a/1") == "images/a/1.png"


def test_a_damaged_arrow_file_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "data.arrow").write_bytes(b"no table")
    with pytest.raises(UserError, match="can't be read"):
        has_row(f"{tmp_path}/data.arrow/image/000000000")


def test_a_file_name_that_is_not_utf8_survives_a_manifest(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(b"")
    write_csv(tmp_path / "split.csv", ["image"], [[name]])
    (row,) = read_csv(tmp_path / "split.csv")
    assert _ImageFinder(tmp_path / "split.csv", tmp_path)(1, row["image"]) == name
