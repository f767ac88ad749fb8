"""Images of any aspect ratio and thousands of identical files: bounded memory and time, the right result."""

from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torchvision.transforms import v2

from image_lists import scan
from sports_lightning.audit.scan import DatasetScan
from sports_lightning.data.augment import RandomResizedCrop
from sports_lightning.data.decode import decode
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.preprocessing import Preprocessing, ResizeAndCrop
from sports_lightning.split.duplicates import find_duplicates
from sports_lightning.split.thumbnails import Thumbnails

SHAPES = [(1, 300), (300, 1), (1, 65_000), (20_000, 1), (7, 7)]


def scan_of(splits: list[str], digests: list[str], small: np.ndarray) -> DatasetScan:
    n = len(splits)
    thumbnails = Thumbnails(small, np.full((n, 2), 32, np.int32), np.zeros(n, bool))
    paths = [f"{split}/a/{i}.png" for i, split in enumerate(splits)]
    pairs = find_duplicates(small, digests)
    return DatasetScan(Path(), splits, ["a"] * n, paths, digests, [""] * n, thumbnails, pairs, {})


def test_leaks_among_thousands_of_identical_files() -> None:
    splits = ["train"] * 10_000 + ["val"] * 6_000 + ["test"] * 4_000
    scan = scan_of(splits, ["same"] * len(splits), np.zeros((len(splits), 32, 32), np.uint8))
    assert len(scan.leaking) == 10_000
    assert all(pair.first == 0 for pair in scan.leaking)
    assert len(scan.leaks("test")) == 4_000
    assert not scan.leaks("train")


def test_leaks_are_found_through_copies_of_near_duplicates() -> None:
    random = np.random.default_rng(0)
    scene = np.kron(random.integers(0, 255, (4, 4)), np.ones((8, 8)))
    other = np.kron(random.integers(0, 255, (4, 4)), np.ones((8, 8)))
    brighter = scene * 0.9 + 10
    # train: other, brighter; val: scene, other; test: scene twice
    small = np.array([other, brighter, scene, other, scene, scene], dtype=np.uint8)
    splits = ["train", "train", "val", "val", "test", "test"]
    scan = scan_of(splits, ["o", "b", "s", "o", "s", "s"], small)
    assert [(pair.first, pair.second) for pair in scan.leaking] == [(0, 3), (1, 2), (1, 4), (1, 5)]


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_aspect_ratio_becomes_the_input_size(shape: tuple[int, int], crop_mode: str) -> None:
    image = torch.full((3, *shape), 200, dtype=torch.uint8)
    preprocessing = Preprocessing((224, 192), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875, crop_mode)
    result = preprocessing.transform()(image)
    assert result.shape == (3, 224, 192)
    assert result[:, 111:114, 95:98].amax((1, 2)).tolist() == [200] * 3
    crop = RandomResizedCrop([224, 224], scale=(0.35, 1.0))
    assert (crop(image) == 200).all()


def test_a_long_image_is_cropped_as_by_timm() -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 10, 1_000), dtype=np.uint8))
    config = {"input_size": (3, 64, 64), "crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "center"}
    ours = ResizeAndCrop([64, 64], "bilinear", 0.9, "center")(image)
    theirs = timm.data.create_transform(**config, mean=(0, 0, 0), std=(1, 1, 1))(v2.functional.to_pil_image(image))
    assert (ours.float() - theirs * 255).abs().max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_aspect_ratio_is_checked_decoded_and_scanned(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    for split, color in (("train", 50), ("valid", 200)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", shape[::-1], (color, 0, 0)).save(tmp_path / split / label / name)
    path = f"train/a/{name}"
    assert check_files(tmp_path, [path])[0].problem == ""
    assert decode(tmp_path / path, 448).shape == (3, *shape)
    assert scan(tmp_path, tmp_path / "cache").thumbnails.size[0].tolist() == list(shape[::-1])
