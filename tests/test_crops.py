"""Other crops, recolored copies and copies with a strip of text are verified by geometry; similar scenes are not."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from sports_lightning.split.blob_matches import match_blobs
from sports_lightning.split.blobs import find_blobs
from sports_lightning.split.duplicates import DuplicatePair
from sports_lightning.split.geometry import align, describe
from sports_lightning.split.near_copies import compare_images


def scene(seed: int, side: int = 224, players: int = 0) -> Image.Image:
    """A background of ellipses given by the seed, and other ellipses of `players` in front of it."""
    image = Image.new("RGB", (side, side), "gray")
    draw = ImageDraw.Draw(image)
    for number, draws in ((120, np.random.default_rng(seed)), (40 if players else 0, np.random.default_rng(players))):
        for _ in range(number):
            (x, y), (wide, high) = draws.uniform(0, side, 2), draws.uniform(4, side / 6, 2)
            draw.ellipse((x, y, x + wide, y + high), fill=tuple(draws.integers(0, 255, 3).tolist()))
    return image


def recolored(image: Image.Image) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda level: (level + 20) % 256), saturation, value)).convert("RGB")


def with_text(image: Image.Image) -> Image.Image:
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, 190, 224, 224), fill="white")
    draw.text((5, 200), "the final of the championship", fill="black")
    return copy


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped": lambda image: image.crop((40, 10, 214, 184)).resize((224, 224)),
    "cropped and mirrored": lambda image: ImageOps.mirror(image.crop((40, 10, 214, 184)).resize((224, 224))),
    "recolored": lambda image: recolored(image.crop((40, 10, 214, 184))),
    "with text": with_text,
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_near_copies_and_nothing_else(kind: str, tmp_path: Path) -> None:
    names = [*(f"{i}.png" for i in range(12)), *(f"copy{i}.png" for i in range(4))]
    for i, name in enumerate(names):
        (scene(i) if i < 12 else COPIES[kind](scene(i - 12))).save(tmp_path / name)
    _, pairs = compare_images(tmp_path, names, [kind + name for name in names], None, tmp_path / "cache")
    found, planted = {(pair.first, pair.second) for pair in pairs}, {(i, 12 + i) for i in range(4)}
    assert found <= planted
    assert len(found) >= (4 if "cropped" in kind else 2), "benchmarks/planted_copies.py measures the recall"
    assert {pair.mirrored for pair in pairs} == {"mirrored" in kind}
    if "cropped" in kind:
        assert all(pair.verified for pair in pairs)
    again = compare_images(tmp_path / "moved", names, [kind + name for name in names], None, tmp_path / "cache")[1]
    assert again == pairs, "the results are cached"
    assert isinstance(again[0], DuplicatePair)


def test_two_moments_before_one_background_are_not_one_photograph() -> None:
    first, second = (np.asarray(scene(0, players=players).convert("L")) for players in (1, 2))
    alignment = align(describe(first), describe(second))
    assert alignment.inliers >= 10, "the background matches"
    assert not alignment.is_same_photograph


def test_a_common_logo_is_not_enough() -> None:
    logo = scene(99, 60)
    images = [scene(i) for i in (0, 1)]
    for image in images:
        image.paste(logo, (150, 10))
    assert not align(*(describe(np.asarray(image.convert("L"))) for image in images)).is_same_photograph


def test_images_without_features_are_no_candidates() -> None:
    flat = np.full((224, 224), 128, np.uint8)
    assert not align(describe(flat), describe(flat)).is_same_photograph
    assert not len(find_blobs(Image.fromarray(flat)).place)


def test_many_copies_are_compared_in_part() -> None:
    blobs = find_blobs(scene(0).convert("L"))
    image = np.repeat(np.arange(400, dtype=np.int32), len(blobs.place))
    found = match_blobs(image, np.tile(blobs.place, (400, 1)), np.tile(blobs.signature, (400, 1)))
    assert len(found.pairs) <= 6 * 400 * 2


def test_alignments_do_not_depend_on_the_state_of_random_numbers() -> None:
    first, second = (np.asarray(image.convert("L")) for image in (scene(0), COPIES["cropped"](scene(0))))
    cv2.setRNGSeed(5)
    assert align(describe(first), describe(second)) == align(describe(first), describe(second))
