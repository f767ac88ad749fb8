"""Planted copies are found and described; evaluation reports the metrics without them."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageEnhance, ImageOps
from safetensors.torch import save_file

from commands import run_command
from image_lists import scan
from sports_lightning.audit.findings import collect_findings
from sports_lightning.audit.scan import DatasetScan
from sports_lightning.split.duplicates import _compare, find_duplicates
from sports_lightning.split.hash_neighbours import find_neighbours, thin_out
from sports_lightning.split.thumbnails import Thumbnails, read_thumbnails


def image(seed: int, side: int = 160) -> Image.Image:
    """An image with structure at all scales, different from all others."""
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(random.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize((side, side)), float) / n
        for n in (2, 4, 8, 16)
    ]
    pixels = sum(layers)
    return Image.fromarray((255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8))


def recoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


COPIES = {
    "recoded": lambda image: recoded(image, 40),
    "scaled": lambda image: image.resize((128, 128)).resize((160, 160)),
    "smaller": lambda image: image.resize((128, 128)),
    "mirrored": ImageOps.mirror,
    "cropped": lambda image: image.crop((8, 0, 160, 152)),
    "cropped all around": lambda image: image.crop((4, 4, 156, 156)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(kind: str, tmp_path: Path) -> None:
    names = []
    for i in range(24):
        image(i).save(tmp_path / f"{i}.bmp")
        names.append(f"{i}.bmp")
    for i in range(16):
        COPIES[kind](image(i)).save(tmp_path / f"copy{i}.bmp")
        names.append(f"copy{i}.bmp")
    pairs = find_duplicates(read_thumbnails(tmp_path, names).small, names)
    assert {(pair.first, pair.second) for pair in pairs} == {(i, 24 + i) for i in range(16)}
    assert {pair.mirrored for pair in pairs} == {kind == "mirrored"}


def test_identical_files_are_pairs_and_unreadable_or_blank_ones_are_not() -> None:
    small = np.zeros((5, 32, 32), np.uint8)
    pairs = find_duplicates(small, ["a", "a", "", "", "b"])
    assert [(pair.first, pair.second, pair.similarity) for pair in pairs] == [(0, 1, 1.0)]


def test_unrelated_images_are_not_pairs() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert find_duplicates(noise, ["a", "b", "c"]) == []


def scan_of(splits: list[str], digests: list[str], small: np.ndarray) -> DatasetScan:
    """A scan of images of one class, without files."""
    paths, count = [f"{split}/a/{i}.png" for i, split in enumerate(splits)], len(splits)
    thumbnails = Thumbnails(small, np.zeros((count, 2), np.int32), np.zeros(count, bool))
    pairs = find_duplicates(small, digests)
    return DatasetScan(Path(), splits, ["a"] * count, paths, digests, [""] * count, thumbnails, pairs, {})


def test_thousands_of_identical_files_take_linear_time() -> None:
    splits = ["train"] * 16_000 + ["val"] * 2_000 + ["test"] * 2_000
    scan = scan_of(splits, ["a"] * 20_000, np.zeros((20_000, 32, 32), np.uint8))
    assert len(scan.pairs) == 19_999
    assert [len(scan.leaks(split)) for split in ("train", "val", "test")] == [0, 2_000, 2_000]
    assert len(collect_findings(scan)["leaks"]) == 4_000


def test_a_large_group_of_near_copies_is_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    base = np.asarray(image(0, 32).convert("L"), float)
    noise = np.random.default_rng(0).normal(0, 3, (90, 32, 32))
    small = (0.8 * base + 20 + noise).clip(0, 255).astype(np.uint8)
    compared = []

    def compare(pixels: np.ndarray, pairs: np.ndarray, *rest: Any) -> np.ndarray:
        compared.append(len(pairs))
        return _compare(pixels, pairs, *rest)

    monkeypatch.setattr("sports_lightning.split.duplicates._compare", compare)
    scan = scan_of(["train"] * 40 + ["test"] * 50, [str(i) for i in range(90)], small)
    assert compared[0] <= 16 * 90, "of 90 · 89 pairs"
    assert compared[1] <= 3 * 90
    assert len(scan.leaks("test")) == 50, "each is paired with one of the first"


def test_rows_with_many_neighbours_keep_the_first_and_the_most_similar() -> None:
    rows, others = np.array([0, 0, 1, 1, 1, 1, 1]), np.array([5, 6, 9, 8, 7, 6, 5])
    similarity = np.array([0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.5])
    kept = thin_out(rows, others, similarity, most=4, first=1, best=2)
    assert kept.tolist() == [True, True, True, True, False, False, True]


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """A small dataset with one flaw of each kind."""
    root = tmp_path / "flawed"
    number = 0
    for split in ("train", "valid", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                image(number).save(root / split / name / f"{i}.png")
                number += 1
    shutil.copy(root / "train/a/0.png", root / "test/a/copy.png")
    ImageOps.mirror(Image.open(root / "train/a/1.png")).save(root / "test/b/mirrored.png")
    (root / "valid/b/broken.jpg").write_bytes(b"not an image")
    image(99, 40).save(root / "train/b/tiny.png")
    image(100).convert("L").save(root / "train/b/grey.png")
    (root / "train/c").mkdir()
    image(101).save(root / "train/c/only.png")
    return root


def test_audit_reports_every_flaw_by_name(flawed: Path, tmp_path: Path) -> None:
    run = run_command("audit", "data=folder", f"data.root={flawed}", "hydra.run.dir=out")
    found = json.loads((tmp_path / "out/audit.json").read_text())
    assert [(row["first"], row["second"], row["kind"]) for row in found["leaks"]] == [
        ("train/a/0.png", "test/a/copy.png", "identical"),
        ("train/a/1.png", "test/b/mirrored.png", "mirrored"),
    ]
    assert [row["second"] for row in found["label_conflicts"]] == ["test/b/mirrored.png"]
    assert list(found["unreadable"]) == ["valid/b/broken.jpg"]
    assert found["tiny"] == ["train/b/tiny.png"]
    assert found["grey"] == ["train/b/grey.png"]
    assert found["classes_missing"] == {"train": [], "val": ["c"], "test": ["c"]}
    assert found["imbalance"] == {"split": "train", "least": 1, "most": 6}
    with (tmp_path / "out/leaks.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["test/a/copy.png", "test/b/mirrored.png"]
    page = (tmp_path / "out/audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4, "both images of both pairs are on the page"
    assert "http://" not in page
    assert "https://" not in page
    assert "2 of test also in an earlier split" in run.stdout


@pytest.fixture
def network(tmp_path: Path) -> list[str]:
    """The arguments for a network with weights."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    return ["model=timm", "model.name=test_resnet", f"model.weights={tmp_path}/weights.safetensors"]


@pytest.mark.slow
def test_feature_neighbours_are_listed_but_do_not_count_as_leaks(
    flawed: Path, network: list[str], tmp_path: Path
) -> None:
    Image.open(flawed / "train/a/2.png").crop((0, 0, 128, 128)).save(
        flawed / "test/a/cut.png"
    )  # too different for a copy
    run = run_command("audit", "data=folder", f"data.root={flawed}", *network, "hydra.run.dir=out")
    found = json.loads((tmp_path / "out/audit.json").read_text())
    listed = {(row["first"], row["second"]): row for row in found["feature_neighbours"]}
    assert listed["train/a/2.png", "test/a/cut.png"]["kind"] == "similar features"
    assert len(listed) < 40, "of 325 pairs"
    assert not listed.keys() & {(row["first"], row["second"]) for row in found["pairs"]}
    across = [row["first_split"] != row["second_split"] for row in found["feature_neighbours"]]
    assert across == sorted(across, reverse=True), "leaks would be among the first"
    assert {row["second"] for row in found["leaks"]} == {"test/a/copy.png", "test/b/mirrored.png"}
    assert "Feature neighbours" in (tmp_path / "out/audit.html").read_text()
    assert "pairs to inspect" in run.stdout


def test_two_images_have_no_feature_neighbours(network: list[str], tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"data/train/{i}").mkdir(parents=True)
        image(i).save(tmp_path / f"data/train/{i}/only.png")
    run_command("audit", "data=folder", "data.root=data", *network, "hydra.run.dir=out")
    assert json.loads((tmp_path / "out/audit.json").read_text())["feature_neighbours"] == []


def test_neighbours_equal_those_of_a_brute_force_search() -> None:
    draws = np.random.default_rng(0)
    vectors = draws.standard_normal((2000, 64)).astype(np.float32)
    vectors[1000:] = vectors[:1000] + 0.3 * vectors[1000:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, images = find_neighbours(vectors, vectors, 2000, 0.9, 24, np.random.default_rng(1))
    found = set(zip(rows.tolist(), images.tolist(), strict=True))
    everything = {(int(a), int(b)) for a, b in np.argwhere(vectors @ vectors.T >= 0.9) if a != b}
    assert found <= everything
    assert len(found) == len(rows)
    assert len(found) > 0.95 * len(everything) > 1500


def test_audit_results_are_cached_until_an_image_changes(flawed: Path, tmp_path: Path) -> None:
    first = scan(flawed, tmp_path / "cache")
    again = scan(flawed, tmp_path / "cache")
    assert again.pairs == first.pairs
    assert isinstance(again.thumbnails.small, np.memmap), "leaks need none of them"
    assert len(list((tmp_path / "cache/scan").iterdir())) == 1
    image(200).save(flawed / "test/a/copy.png")
    assert scan(flawed, tmp_path / "cache").leaks("test") == {"test/b/mirrored.png"}


@pytest.mark.slow
def test_evaluate_also_reports_metrics_without_leaks(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(few, root)
    for name in sorted((root / "test").iterdir()):  # one test image of every class is in train too
        shutil.copy(sorted((root / "train" / name.name).iterdir())[0], name / "leak.jpg")
    checkpoint = f"ckpt_path={trained[0]}/checkpoints/best.ckpt"
    run_command("evaluate", checkpoint, f"data.root={root}", "hydra.run.dir=out")
    run_command("evaluate", checkpoint, f"data.root={few}", "hydra.run.dir=clean")
    with_leaks = json.loads((tmp_path / "out/metrics.json").read_text())["test"]
    clean = json.loads((tmp_path / "clean/metrics.json").read_text())["test"]
    assert with_leaks["leaks"] == clean["leaks"] + 10
    assert with_leaks["count"] == clean["count"] + 10
    assert with_leaks["without_leaks"] == clean["without_leaks"]
    run_command("evaluate", checkpoint, f"data.root={root}", "data.audit=false", "hydra.run.dir=off")
    assert "leaks" not in json.loads((tmp_path / "off/metrics.json").read_text())["test"]
