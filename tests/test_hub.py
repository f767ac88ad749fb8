"""Datasets of the Hugging Face Hub, and local ones in its formats."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from image_lists import data_settings
from interruption import signal_at_step
from processes import Process
from sports_lightning.data.file_hashes import check_files, read_file
from sports_lightning.data.image_folder import list_image_folder
from sports_lightning.data.image_table import ImageTable
from sports_lightning.data.source import list_dataset
from sports_lightning.errors import UserError
from test_downloads import Answer, serving

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

OWN_NAMES = {"train": "train", "valid": "validation", "test": "test"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def rows_of(folder: Path, split: str, label: str = "label") -> Any:
    """A split of a class folder dataset as a dataset with embedded images."""
    classes = sorted(path.name for path in (folder / "train").iterdir())
    files = sorted((folder / split).glob("*/*.jpg"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    features = datasets.Features({"image": datasets.Image(), label: datasets.ClassLabel(names=classes)})
    return datasets.Dataset.from_dict({"image": images, label: [classes.index(f.parent.name) for f in files]}, features)


def save_parquet(folder: Path, images: Path) -> Path:
    images.mkdir()
    for split, name in OWN_NAMES.items():
        rows_of(folder, split).to_parquet(images / f"{name}-00000-of-00001.parquet")
    return images


@pytest.fixture
def parquet(few: Path, tmp_path: Path) -> Path:
    return save_parquet(few, tmp_path / "parquet")


def listed(name: Path | str, **settings: Any) -> ImageTable:
    return list_dataset(data_settings(Path("unused"), source="huggingface", name=str(name), **settings))


def contents(table: ImageTable) -> list[tuple[int, str, bytes]]:
    labels = [table.names[label] for label in table.labels]
    return [
        (split, label, read_file(table.root / path))
        for split, label, path in zip(table.splits.tolist(), labels, table.paths, strict=True)
    ]


def test_local_formats_hold_the_same_images_as_the_folder(few: Path, parquet: Path, tmp_path: Path) -> None:
    expected = contents(list_image_folder(few))
    assert contents(listed(parquet)) == expected
    saved = datasets.DatasetDict({name: rows_of(few, split) for split, name in OWN_NAMES.items()})
    saved.save_to_disk(tmp_path / "saved", max_shard_size="100KB")
    assert len(list((tmp_path / "saved" / "train").glob("*.arrow"))) > 1
    assert contents(listed(tmp_path / "saved")) == expected
    one = listed(parquet / "test-00000-of-00001.parquet")
    assert contents(one) == [(-1, label, content) for split, label, content in expected if split == 2]


def test_image_folders_with_metadata_are_read_where_they_are(few: Path, tmp_path: Path) -> None:
    for split in OWN_NAMES.values():
        (tmp_path / "images" / split).mkdir(parents=True)
    for split, name in OWN_NAMES.items():
        with (tmp_path / "images" / name / "metadata.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "sport", "player"])
            for image in sorted((few / split).glob("*/00[12].jpg")):
                shutil.copy(image, tmp_path / "images" / name / f"{image.parent.name} {image.name}")
                writer.writerow([f"{image.parent.name} {image.name}", image.parent.name, image.stem])
    columns = {"image": "image", "label": "sport", "split": "split", "group": "player"}
    table = listed(tmp_path / "images", manifest_columns=columns)
    assert table.root == tmp_path / "images"
    assert table.paths[0].startswith("train/")
    assert table.groups is not None
    assert len(set(table.groups.tolist())) == 2
    whole = list_image_folder(few)
    chosen = [i for i, path in enumerate(whole.paths) if Path(path).stem in ("001", "002")]
    assert contents(table) == contents(whole.take(chosen))


def read(path: str) -> bytes:
    return read_file(path)


def test_threads_and_forked_processes_read_the_same_bytes(parquet: Path) -> None:
    table = listed(parquet)
    paths = [str(table.root / path) for path in table.paths]
    expected = [read(path) for path in paths]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read, paths)) == expected
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(read, paths) == expected


def test_the_file_hashes_of_rows_are_stored(parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = listed(parquet)
    now = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: now() + 60 * 10**9)  # so that the files count as old enough
    checks = check_files(table.root, table.paths, tmp_path / "cache")
    assert not any(check.problem for check in checks)
    monkeypatch.setattr("sports_lightning.data.file_hashes._read", None)
    assert check_files(table.root, table.paths, tmp_path / "cache") == checks


def images_and(**columns: Any) -> Any:
    """Four rows with a small image each, and other columns."""
    images = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(4)]
    features = datasets.Features(
        {"photo": datasets.Image(), **{name: feature for name, (feature, _) in columns.items()}}
    )
    return datasets.Dataset.from_dict(
        {"photo": images, **{name: values for name, (_, values) in columns.items()}}, features
    )


def test_columns_are_found_by_their_types(tmp_path: Path) -> None:
    sports = datasets.ClassLabel(names=["tennis", "golf"]), [0, 1, 1, 0]
    kinds = datasets.ClassLabel(names=["team", "single"]), [0, 0, 1, 1]
    images_and(sport=sports, width=(datasets.Value("int64"), [1, 2, 3, 4])).save_to_disk(tmp_path / "one")
    table = listed(tmp_path / "one")
    assert [table.names[label] for label in table.labels] == ["golf", "golf", "tennis", "tennis"]
    assert table.splits.tolist() == [-1] * 4, "a dataset without splits is called train"
    images_and(sport=sports, kind=kinds).save_to_disk(tmp_path / "two")
    with pytest.raises(
        UserError, match=r"several columns of type ClassLabel: set data\.manifest_columns\.label to one of 'sp"
    ):
        listed(tmp_path / "two")
    columns = {"image": "image", "label": "kind", "split": "split", "group": "sport"}
    assert listed(tmp_path / "two", manifest_columns=columns).names == ["single", "team"]
    splits = datasets.Value("string"), ["train", "val", "train", "test"]
    images_and(label=(datasets.Value("int32"), [7, 10, 10, 7]), split=splits).save_to_disk(tmp_path / "three")
    table = listed(tmp_path / "three")
    assert (table.names, table.splits.tolist()) == (["10", "7"], [0, 0, 1, 2])


def test_a_split_without_labels_is_left_out(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["tennis", "golf"])
    parts = {"train": [0, 1, 1, 0], "test": [-1] * 4, "extra": [0] * 4}
    saved = datasets.DatasetDict({name: images_and(label=(label, values)) for name, values in parts.items()})
    saved.save_to_disk(tmp_path / "saved")
    assert listed(tmp_path / "saved").splits.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column of type ClassLabel: set data.manifest_columns.label to one of 'photo'"),
        ({"label": ("float32", [0.5] * 4)}, "the column 'label' has no classes, but values of type float32"),
        ({"label": ("string", ["a", "b", None, "a"])}, "row 2: the label is empty"),
        ({"label": ("string", list("abab")), "split": ("string", list("xyxy"))}, "row 0: the split 'x' must be train"),
        ({"image": ("string", list("abab")), "label": ("string", list("abab"))}, "data.manifest=FILE.parquet"),
    ],
)
def test_columns_that_do_not_fit_are_one_line(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    typed = {name: (datasets.Value(kind), values) for name, (kind, values) in columns.items()}
    images_and(**typed).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError) as error:
        listed(tmp_path / "saved")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_several_image_columns_are_one_line(tmp_path: Path) -> None:
    masks = [Image.new("L", (4, 4))] * 4
    labels = datasets.Value("string"), list("abab")
    images_and(label=labels, mask=(datasets.Image(), masks)).save_to_disk(tmp_path / "saved")
    with pytest.raises(
        UserError, match=r"several columns of type Image: set data\.manifest_columns\.image to one of 'pho"
    ):
        listed(tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "message"), [("./nowhere", "does not exist"), ("file.txt", "must be a folder"), ("empty", "can't load")]
)
def test_a_wrong_local_name_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    result = try_command("train", *FAST, "data=huggingface", f"data.name={name}", "hydra.run.dir=run", cwd=tmp_path)
    assert_error_line(result, message)
    assert not (tmp_path / "run" / "split.csv").exists()


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs datasets: pip install -e '\.\[huggingface\]'"):
        listed(tmp_path)


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
def test_runs_are_the_same_as_on_the_folder(few: Path, parquet: Path, tmp_path: Path) -> None:
    quick = [*FAST, "logger=csv", "trainer.max_epochs=2", "+trainer.limit_train_batches=4"]
    hub = [*quick, "data=huggingface", f"data.name={parquet}"]
    run_command("train", *quick, f"data.root={few}", "data.batch_size=32", "hydra.run.dir=folder", cwd=tmp_path)
    run_command("train", *hub, "hydra.run.dir=hub", "data.num_workers=2", cwd=tmp_path)
    expected = weights(tmp_path / "folder")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "hub").items())

    with signal_at_step(signal.SIGINT, 5):
        try_command("train", *hub, "hydra.run.dir=resumed", cwd=tmp_path)
    run_command("train", f"resume={tmp_path / 'resumed'}", cwd=tmp_path)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "resumed").items())

    predictions = (tmp_path / "hub" / "predictions.csv").read_bytes()
    evaluate = ["evaluate", f"ckpt_path={tmp_path}/hub/checkpoints/best.ckpt"]
    printed = run_command(*evaluate, "hydra.run.dir=again", cwd=tmp_path).stdout
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == predictions
    assert "leaks: unknown" not in printed
    root = Path(json.loads((tmp_path / "hub" / "split.json").read_text())["root"])
    shutil.rmtree(root)  # the cache can be deleted any time
    run_command(*evaluate, "hydra.run.dir=reloaded", cwd=tmp_path)
    assert (tmp_path / "reloaded" / "predictions.csv").read_bytes() == predictions

    run_command("reproduce", f"run={tmp_path}/hub", "hydra.run.dir=repeated", cwd=tmp_path)
    compared = run_command(
        "compare", f"runs=[{tmp_path}/folder,{tmp_path}/hub]", "hydra.run.dir=compared", cwd=tmp_path
    )
    assert "different images" not in compared.stdout
    run_command("audit", "data=huggingface", f"data.name={parquet}", "hydra.run.dir=audit", cwd=tmp_path)
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["root"] == str(root)


COMMIT = "c" * 40


class FakeHub:
    """The part of the Hub's interface that `datasets` uses, for one dataset."""

    def __init__(self, files: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in sorted(files.iterdir())}
        self.requests: list[str] = []

    def __call__(self, address: str) -> Answer | None:
        path = address.partition("?")[0]
        self.requests.append(path)
        if path.startswith("/datasets/me/sports/resolve/"):
            return self._file(*path.split("/")[5:7])
        if path.startswith("/datasets/me/"):
            return self._missing("GatedRepo" if "secret" in path else "RepoNotFound")
        kind, _, rest = path.removeprefix("/api/datasets/me/sports").strip("/").partition("/")
        if not path.startswith("/api/datasets/me/"):
            return None
        if not path.startswith("/api/datasets/me/sports"):
            return self._missing("GatedRepo" if "secret" in path else "RepoNotFound")
        if kind in ("", "revision"):
            return self._json(
                {"id": "me/sports", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            )
        if rest.strip("/") != COMMIT and kind == "tree":
            return self._missing("EntryNotFound")
        return self._json(
            [{"type": "file", "path": name, "size": len(c), "oid": name} for name, c in self.files.items()]
        )

    def _file(self, revision: str, name: str) -> Answer:
        if revision not in ("main", "v1", COMMIT):
            return self._missing("RevisionNotFound")
        if name not in self.files:
            return self._missing("EntryNotFound")
        return {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}, self.files[name]

    def _missing(self, code: str) -> Answer:
        return {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, b"", 403 if code == "GatedRepo" else 404

    def _json(self, value: Any) -> Answer:
        return {"Content-Type": "application/json"}, json.dumps(value).encode()


@pytest.mark.slow
def test_a_run_loads_from_the_hub_and_records_the_commit(parquet: Path, tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path / "hf")}
    quick = [*FAST, "debug=fast", "data=huggingface", "data.name=me/sports"]
    with serving(FakeHub(parquet)) as port:
        home["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"
        result = Process("train", *quick, "hydra.run.dir=run", **home).result()
    assert result.status == 0, result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["revision"] == COMMIT
    # The second time from the cache, without a reachable hub.
    again = Process("train", *quick, f"data.revision={COMMIT}", "hydra.run.dir=again", **home).result()
    assert again.status == 0, again.stderr
    assert (tmp_path / "again/predictions.csv").read_bytes() == (tmp_path / "run/predictions.csv").read_bytes()


LIST = """
import json, sys
from omegaconf import OmegaConf
from sports_lightning.data.hub_table import list_hub_dataset
from sports_lightning.errors import UserError
for settings in json.loads(sys.argv[1]):
    try:
        list_hub_dataset(OmegaConf.create(settings))
    except UserError as error:
        print(error)
"""


def errors_of(endpoint: str, home: Path, *settings: tuple[str, str | None, str | None]) -> list[str]:
    """The errors of listing datasets (name, subset, revision), in a new interpreter."""
    columns = {name: name for name in ("image", "label", "split", "group")}
    configs = [
        {"name": name, "subset": subset, "revision": revision, "manifest_columns": columns}
        for name, subset, revision in settings
    ]
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    command = [sys.executable, "-c", LIST, json.dumps(configs)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line(parquet: Path, tmp_path: Path) -> None:
    with serving(hub := FakeHub(parquet)) as port:
        endpoint = f"http://127.0.0.1:{port}"
        found = errors_of(
            endpoint,
            tmp_path / "hf",
            ("me/nothing", None, None),
            ("me/secret", None, None),
            ("me/sports", "cats", None),
            ("me/sports", None, "v9"),
            ("me/sports", None, "v1"),
        )
    assert hub.requests
    expected = ["me/nothing' doesn't exist", "gated dataset", "data.subset", "Revision 'v9' doesn't exist"]
    assert len(found) == len(expected), found
    for part, line in zip(expected, found, strict=True):
        assert part in line
    offline = errors_of(endpoint, tmp_path / "hf", ("me/sports", None, "v1"), ("me/other", None, None))
    assert f"go online, or set data.revision={COMMIT}" in offline[0]
    assert "go online, or give the name of a local folder" in offline[1]
