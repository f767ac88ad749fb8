"""Index, decoding, order and augmentation."""

import multiprocessing
import random
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from pytorch_lightning.utilities.seed import isolate_rng
from torchvision.transforms import v2

from conftest import composed
from image_lists import list_index
from sports_lightning.data import datamodule
from sports_lightning.data.augment import EpochTransform, KerasAffine, PairMix, RandomHorizontalFlip, RandomResizedCrop
from sports_lightning.data.datamodule import count_workers
from sports_lightning.data.dataset import TrainingImages, seed_draws
from sports_lightning.data.dataset_index import split_fingerprint
from sports_lightning.data.decode import decode
from sports_lightning.data.decoded_cache import ImageFiles
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.sample.dataset import COUNTS, draw_sample
from sports_lightning.data.sample.scenes import SPORTS, draw_scene
from sports_lightning.data.sampler import EpochSampler
from sports_lightning.errors import UnreadableImage, UserError
from sports_lightning.storage.disk_cache import fingerprint
from sports_lightning.storage.packed_strings import PackedStrings
from sports_lightning.storage.parallel import map_ahead


def test_stray_files_and_hidden_folders_are_ignored(few: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name in ("b", "a"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "1.PNG")
            (folder / "notes.txt").write_text("x")
            (folder / ".hidden.jpg").write_text("x")
        (tmp_path / split / ".ipynb_checkpoints").mkdir()
    (tmp_path / "sports.csv").write_text("x")
    (tmp_path / "model.h5").write_text("x")
    index = list_index(tmp_path, ["train", "val"])
    assert index.classes == ["a", "b"]
    assert index.splits["train"].paths == ["train/a/1.PNG", "train/b/1.PNG"]
    assert index.splits["val"].labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="test is missing"):
        list_index(tmp_path, ["test"])


RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "mode", "color", "options", "expected"),
    [
        ("grey.jpg", "L", 100, {}, (100, 100, 100)),
        ("bits.png", "1", 1, {}, WHITE),
        ("clear.png", "RGBA", (255, 0, 0, 0), {}, WHITE),
        ("half.webp", "RGBA", (255, 0, 0, 128), {"lossless": True}, (255, 127, 127)),
        ("greyalpha.png", "LA", (0, 0), {}, WHITE),
        ("palette.gif", "P", 0, {}, (0, 0, 0)),
        ("print.jpg", "CMYK", (0, 255, 255, 0), {"quality": 100}, (255, 0, 0)),
        ("deep.png", "I;16", 128 * 257, {}, (128, 128, 128)),
        ("deep.tif", "I;16", 200 * 257, {}, (200, 200, 200)),
        ("plain.bmp", "RGB", RED, {}, RED),
    ],
)
def test_any_mode_becomes_rgb(
    tmp_path: Path, name: str, mode: str, color: object, options: dict[str, object], expected: tuple[int, ...]
) -> None:
    Image.new(mode, (20, 12), color).save(tmp_path / name, **options)  # type: ignore[arg-type]
    pixels = decode(tmp_path / name)
    assert pixels.shape == (3, 12, 20)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 6, 10].tolist() == pytest.approx(expected, abs=3)


def test_exif_orientation_is_applied_and_the_first_frame_used(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90°
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg").shape == (3, 30, 10)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(tmp_path / "moving.webp")[:, 0, 0].tolist() == [255, 0, 0]


def test_jpegs_decode_bit_identically_to_pillow_with_any_header(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((151, 203), Image.Resampling.BICUBIC)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    kinds: list[dict[str, Any]] = [{"quality": 30}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}]
    kinds += [{"icc_profile": b"\xff\xda" * 20_000}, {"comment": b"Exif\0\0"}, {"xmp": xmp}]
    for turn in (1, 3, 6):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        kinds += [{"exif": exif}, {"exif": exif, "icc_profile": b"\xff\xda" * 20_000}]
    for number, kind in enumerate(kinds):
        for mode in ("RGB", "L", "CMYK"):
            path = tmp_path / f"{number}{mode}.jpg"
            image.convert(mode).save(path, **kind)
            filled = path.read_bytes().replace(b"\xff\xe1", b"\xff\xff\xe1", 1)  # markers may be preceded by fill bytes
            (tmp_path / f"{number}{mode}_filled.jpg").write_bytes(filled)
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as opened:
            expected = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
        assert np.array_equal(decode(path).permute(1, 2, 0), expected), path.name
        with Image.open(path) as opened:
            opened.draft(None, (40, 40))
            scaled = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
        assert np.array_equal(decode(path, 40).permute(1, 2, 0), scaled), path.name


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_keep_the_order_run_ahead_and_pass_errors_on(threads: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    results = map_ahead(lambda i: 10 // (500 - i), items(), threads)
    assert [next(results) for _ in range(100)] == [10 // (500 - i) for i in range(100)]
    assert len(taken) < 110
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_threads_are_restarted_in_a_forked_process() -> None:
    doubled = [2 * i for i in range(20)]
    assert list(map_ahead(lambda i: 2 * i, range(20), threads=2)) == doubled
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_doubled_in_threads, [20]).get(timeout=30) == doubled


def _doubled_in_threads(count: int) -> list[int]:
    return list(map_ahead(lambda i: 2 * i, range(count), threads=2))


def test_unreadable_files_are_found_with_their_reason(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (few / "train/tennis/001.jpg").read_bytes()
    (tmp_path / "good.jpg").write_bytes(whole)
    (tmp_path / "torn.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "nothing.gif").write_bytes(b"")
    Image.new("RGB", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    names = [path.name for path in tmp_path.iterdir()]
    unreadable = {name for name, entry in zip(names, check_files(tmp_path, names), strict=True) if entry.problem}
    assert unreadable == {"torn.jpg", "text.png", "nothing.gif", "bomb.png"}
    for name in ("torn.jpg", "text.png", "nothing.gif", "bomb.png"):
        with pytest.raises(UnreadableImage, match=name), warnings.catch_warnings():
            decode(tmp_path / name)


def test_order_is_a_function_of_seed_and_epoch_and_devices_share_it() -> None:
    def order(seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> list[tuple[int, int, int]]:
        sampler = EpochSampler(101, seed, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        return list(sampler)

    alone = order(1, 2)
    assert sorted(index for _, index, _ in alone) == list(range(101))
    assert {epoch for epoch, _, _ in alone} == {2}
    assert order(1, 2) == alone
    assert order(1, 3) != alone
    assert order(2, 2) != alone
    first, second = order(1, 2, 0, 2), order(1, 2, 1, 2)
    assert len(first) == len(second) == 50
    together = [pair for both in zip(first, second, strict=True) for pair in both]
    assert together == alone[:100], "step for step the same global batch"


def test_balanced_sampling_draws_rare_classes_as_often() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    weights = 1 / np.bincount(labels)[labels]
    items = list(EpochSampler(1000, 0, weights / weights.sum()))
    drawn = Counter(labels[i] for _, i, _ in items)
    assert 400 < drawn[1] < 600
    assert len(set(items)) == 1000, "a repeated image has new draws"


def test_partners_of_mixed_images_are_balanced_too(few: Path) -> None:
    split = list_index(few, ["train"]).splits["train"]
    rare = split.labels == split.labels[0]
    weights = np.where(rare, 0.9 / rare.sum(), 0.1 / (~rare).sum())
    files, mix = ImageFiles(few, split, None), PairMix(10, 0, 1.0)
    images = TrainingImages(files, split.labels, lambda _: v2.Identity(), 7, mix, weights=weights)
    with isolate_rng():
        drawn = [images._partner() for _ in range(500)]
    assert 400 < sum(rare[i] for i in drawn) < 490


def test_draws_depend_on_seed_epoch_and_index_and_restore_the_global_state(few: Path) -> None:
    split = list_index(few, ["train"]).splits["train"]
    transform = v2.Compose([v2.RandomResizedCrop([32, 32]), v2.RandomHorizontalFlip()])
    files = ImageFiles(few, split, None)
    images = TrainingImages(files, split.labels, lambda _: transform, 7, PairMix(10, 0.4, 1.0))
    before = torch.get_rng_state()
    image, target = images[3, 11, 0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, same_target = images[3, 11, 0]
    assert torch.equal(image, again)
    assert torch.equal(target, same_target)
    assert not torch.equal(image, images[4, 11, 0][0])
    assert not torch.equal(image, images[3, 11, 1][0])
    assert not torch.equal(image, TrainingImages(files, split.labels, lambda _: transform, 8)[3, 11, 0][0])
    with isolate_rng():
        seed_draws(1, 2)
        first = (torch.rand(1).item(), np.random.rand(), random.random())
        seed_draws(1, 2)
        assert (torch.rand(1).item(), np.random.rand(), random.random()) == first


@pytest.mark.parametrize(("kind", "alphas"), [(v2.MixUp, (0.4, 0)), (v2.CutMix, (0, 0.4))])
@pytest.mark.parametrize("labels", [[1, 3], [2, 2]])
def test_pairs_are_mixed_as_by_torchvision(
    kind: type[v2.MixUp | v2.CutMix], alphas: tuple[float, float], labels: list[int]
) -> None:
    draws = torch.Generator().manual_seed(0)
    for seed in range(20):
        images, classes = (
            torch.randint(0, 256, (2, 3, 40, 30), generator=draws, dtype=torch.uint8),
            torch.tensor(labels),
        )
        torch.manual_seed(seed)
        mixed, target = PairMix(4, *alphas)(images.contiguous(memory_format=torch.channels_last), classes)
        torch.manual_seed(seed)
        torch.randint(1, ())  # the choice between the two
        expected, targets = kind(alpha=0.4, num_classes=4)(images.float(), classes)
        assert torch.equal(mixed, expected[0].round().to(torch.uint8))
        assert torch.equal(target, targets[0])


def test_mixup_blends_images_and_targets() -> None:
    images = torch.stack([torch.full((3, 8, 8), 200), torch.full((3, 8, 8), 100)]).to(torch.uint8)
    torch.manual_seed(0)
    for _ in range(5):
        mixed, target = PairMix(4, mixup=1.0, cutmix=0)(images, torch.tensor([1, 3]))
        share = target[1].item()
        assert mixed.float().mean().item() == pytest.approx(100 + 100 * share, abs=0.6)
        mixed, target = PairMix(4, mixup=0, cutmix=1.0)(images, torch.tensor([1, 3]))
        assert (mixed == 200).float().mean().item() == pytest.approx(target[1].item(), abs=1e-3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_random_crop_and_the_flip_equal_torchvision(few: Path, interpolation: str) -> None:
    settings = {"size": [48, 64], "scale": (0.1, 1.0), "interpolation": v2.InterpolationMode(interpolation)}
    image = decode(next((few / "train").glob("*/*.jpg")))
    for layout in (image, image.contiguous()):
        for seed in range(5):
            torch.manual_seed(seed)
            ours = RandomHorizontalFlip()(RandomResizedCrop(**settings)(layout))
            torch.manual_seed(seed)
            theirs = v2.RandomHorizontalFlip()(v2.RandomResizedCrop(**settings)(layout))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_keras_affine_moves_as_keras_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part alone, with its largest draw, compared with Keras's matrix."""
    image = torch.zeros(3, 41, 41, dtype=torch.uint8)
    image[:, 10, 20] = 255  # above the center

    def moved(**ranges: float) -> tuple[int, int]:
        monkeypatch.setattr(torch, "rand", lambda n, dtype: torch.ones(n, dtype=dtype))
        brightest = int(KerasAffine(**ranges)(image)[0].flatten().argmax())
        return brightest // 41, brightest % 41

    assert moved() == (10, 20)
    assert moved(degrees=90) == (20, 30)  # output (row, col) reads input R·(row, col): the top goes to the right
    assert moved(zoom=1.0) == (15, 20)  # zoom 2 reads twice as far from the center
    row, column = moved(shift=0.1)  # reads 4.1 pixels further down and right
    assert (row, column) == (6, 16)


def test_keras_affine_repeats_the_edge() -> None:
    image = torch.full((3, 32, 32), 180, dtype=torch.uint8)
    torch.manual_seed(0)
    for _ in range(5):
        assert (KerasAffine(40, 0.2, 0.2, 0.2)(image) == 180).all()


@pytest.mark.slow
def test_sample_is_deterministic_complete_and_drawn_once(sample: Path, tmp_path: Path) -> None:
    assert len(SPORTS) >= 8
    for split, count in COUNTS.items():
        for sport in SPORTS:
            assert len(list((sample / split / sport).iterdir())) == count
    one, two = (draw_scene("tennis", np.random.default_rng([0, 8, 3])) for _ in range(2))
    assert one.tobytes() == two.tobytes()
    (tmp_path / "mine").mkdir()
    draw_sample(tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir()), "an existing sample is unchanged"


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_progressive_sizes_grow_over_the_epochs(augment: str, tmp_path: Path) -> None:
    cfg = composed(tmp_path, f"augment={augment}", "augment.progressive_sizes=[[0,32],[3,48],[5,64]]")
    cfg.augment.preprocessing = Preprocessing((96, 96), (0.5,), (0.5,), "bilinear", 1.0, "center").to_dict()
    transform = EpochTransform(cfg.augment)
    image = torch.zeros(3, 120, 130, dtype=torch.uint8)
    assert [transform(epoch)(image).shape[-1] for epoch in range(7)] == [32, 32, 32, 48, 48, 64, 64]
    assert list(cfg.augment.preprocessing.size) == [96, 96]
    cfg.augment.progressive_sizes = []
    assert EpochTransform(cfg.augment)(9)(image).shape == (3, 96, 96)


def test_workers_are_used_only_where_cores_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "usable_cores", lambda: 24)
    assert count_workers("auto", "cpu") == 0
    assert [count_workers("auto", "cuda", devices) for devices in (1, 4, 48)] == [8, 6, 1]
    assert count_workers(3, "cpu") == count_workers(3, "cuda", 4) == 3


def test_packed_strings_equal_their_input() -> None:
    names = ["a/1.jpg", "", "é/😀.png", "not utf-8 \udcff.jpg", "line\nbreak"]
    packed = PackedStrings(names)
    assert list(packed) == names
    assert [packed[i] for i in range(-5, 5)] == names + names
    assert packed[1:4] == names[1:4]
    assert packed == names
    assert len(packed) == 5
    with pytest.raises(IndexError):
        packed[5]


def test_the_fingerprint_of_a_split_equals_that_of_its_pairs() -> None:
    labels, digests = ["a", 'quo"te', "é"], ["0", "1", "2"]
    assert split_fingerprint(labels, digests) == fingerprint([list(pair) for pair in zip(labels, digests, strict=True)])
    assert split_fingerprint([], []) == fingerprint([])


@pytest.mark.slow
def test_a_tree_of_many_files_is_listed_in_little_memory() -> None:
    """The short form of benchmarks/million_files.py."""
    script = Path(__file__).parents[1] / "benchmarks" / "million_files.py"
    arguments = [str(script), str(script), "--files", "20000", "--classes", "100"]
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    found = re.findall(
        r"20,000 files listed(?: and checked)? in [\d.]+ s, (\d+) MB peak \((\d+) MB before\)", result.stdout
    )
    assert len(found) == 3
    assert all(int(peak) - int(before) < 30 for peak, before in found)
