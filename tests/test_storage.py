"""Caches: never stale, never torn, and the same results with and without them."""

import json
import multiprocessing
import os
import pickle
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from commands import run_command
from conftest import FAST, composed
from image_lists import list_index
from processes import run_process
from sports_lightning.data.datamodule import SportsDataModule, count_workers
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decoded_cache import ImageFiles, open_images
from sports_lightning.data.file_hashes import check_files
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.inference import predictor
from sports_lightning.inference.feature_cache import logits_from_features
from sports_lightning.inference.frozen_part import (
    FrozenBackbone,
    FrozenPart,
    FrozenStages,
    find_frozen_part,
    first_modules,
)
from sports_lightning.inference.frozen_pass import FrozenPass
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.inference.training_features import cached_part, use_cached_features
from sports_lightning.models.classifier import Classifier, ClassifierSpec, build_classifier
from sports_lightning.models.freezing import set_frozen_to_eval, set_trainable
from sports_lightning.split.dataset import open_dataset
from sports_lightning.storage.disk_cache import cached_folder
from sports_lightning.storage.locks import FileLock, one_at_a_time
from sports_lightning.storage.parallel import usable_cores


def write_slowly(folder: Path) -> None:
    time.sleep(1)  # long enough for all to have started
    (folder / "who").write_text("anyone")


def test_a_cached_folder_is_built_once_and_again_if_damaged(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "data").write_bytes(b"x" * 1000)

    folder = cached_folder(tmp_path, "things", "key", build)
    assert cached_folder(tmp_path, "things", "key", build) == folder
    assert len(calls) == 1
    for damage in (b"x" * 999, b"x" * 999 + b"y"):
        (folder / "data").write_bytes(damage)
        assert (cached_folder(tmp_path, "things", "key", build) / "data").read_bytes() == b"x" * 1000
    (folder / "contents.json").write_text('{"data"')
    cached_folder(tmp_path, "things", "key", build)
    assert len(calls) == 4
    assert sorted(path.name for path in (tmp_path / "things").iterdir()) == ["key"], "no temporary files are left"

    def fail(folder: Path) -> None:
        (folder / "data").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(tmp_path, "things", "other", fail)
    assert sorted(path.name for path in (tmp_path / "things").iterdir()) == ["key"]


@pytest.mark.slow
def test_processes_that_build_the_same_folder_share_it(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        folders = pool.starmap(cached_folder, [(tmp_path, "things", "key", write_slowly)] * 4, chunksize=1)
    assert set(folders) == {tmp_path / "things" / "key"}
    assert (folders[0] / "who").read_text() == "anyone"
    assert [path.name for path in (tmp_path / "things").iterdir()] == ["key"]


def work_alone(folder: Path) -> bool:
    with one_at_a_time(folder / "target", "the target"):
        was_alone = not (folder / "busy").exists()
        (folder / "busy").touch()
        time.sleep(0.2)
        (folder / "busy").unlink()
    return was_alone


@pytest.mark.slow
def test_processes_work_one_at_a_time_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(work_alone, [tmp_path] * 3, chunksize=1) == [True] * 3
    killed = multiprocessing.get_context("fork").Process(target=work_alone, args=[tmp_path])
    killed.start()
    while not (tmp_path / "busy").exists():
        time.sleep(0.01)
    killed.kill()
    work_alone(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every image that Pillow opens from now on. Files count as written a minute ago, so that they are stable."""
    now, open_image, images = time.time_ns, Image.open, []

    def open_noted(file: object, *arguments: object, **options: object) -> Image.Image:
        images.append(file)
        return open_image(file, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("time.time_ns", lambda: now() + 60 * 10**9)
    monkeypatch.setattr(Image, "open", open_noted)
    return images


def test_a_file_is_read_again_only_when_it_has_changed(opened: list[object], tmp_path: Path) -> None:
    images, cache = tmp_path / "images", tmp_path / "cache"
    images.mkdir()
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), color).save(images / name)
    first = check_files(images, ["a.png", "b.png"], cache)
    assert len({entry.digest for entry in first}) == len(opened) == 2
    assert check_files(images, ["b.png", "a.png"], cache) == first[::-1]
    assert len(opened) == 2

    times = (images / "a.png").stat()
    torn = (images / "a.png").read_bytes()[:-20].ljust(times.st_size, b"\0")
    (images / "a.png").write_bytes(torn)
    os.utime(images / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # same size and modification time
    changed = check_files(images, ["a.png", "b.png"], cache)
    assert len(opened) == 3
    assert changed[0].digest != first[0].digest
    assert changed[0].problem
    assert changed[1] == first[1]
    check_files(images, ["a.png"], cache)
    assert len(opened) == 4, "an unreadable file is read again"

    (index,) = cache.glob("*.sqlite")
    index.write_bytes(b"SQLite format 3\0" + b"garbage" * 500)
    assert check_files(images, ["a.png", "b.png"], cache) == changed
    index.unlink()
    index.mkdir()
    assert check_files(images, ["a.png", "b.png"], cache) == changed, "an index that can't be opened only costs time"


def test_file_hashes_of_many_folders_are_cached_whatever_their_names_and_order(
    opened: list[object], tmp_path: Path
) -> None:
    names = ["a", "b", "Z", "é", "日本", "x y", "a\nb", "10", "9", os.fsdecode(b"\xff\xfe"), *map(str, range(100, 700))]
    paths = [f"{folder}/{name}.png" for folder in ("one", "two/deep") for name in names]
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    image = (tmp_path / "image.png").read_bytes()
    for number, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(image + bytes([number // 256, number % 256]))  # decoders ignore what follows
    first = check_files(tmp_path, paths, tmp_path / "cache")
    assert len({entry.digest for entry in first}) == len(opened) == len(paths)
    assert check_files(tmp_path, paths, tmp_path / "cache") == first
    assert check_files(tmp_path, paths[::-1], tmp_path / "cache") == first[::-1]
    mixed = sorted(range(len(paths)), key=lambda i: i % len(names))
    assert check_files(tmp_path, [paths[i] for i in mixed], tmp_path / "cache") == [first[i] for i in mixed]
    assert len(opened) == len(paths)


@pytest.mark.parametrize("cache", ["disk", "ram"])
def test_cached_images_equal_decoded_ones(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setenv("SPORTS_LIGHTNING_RAM", str(tmp_path / "ram"))
    paths = list_index(few, ["val"]).splits["val"].paths[:6]
    split = Split(paths, [0] * 6, [entry.digest for entry in check_files(few, paths)])
    decoded = [ImageFiles(few, split, 448)(i) for i in range(6)]
    open_images(few, split, 448, cache, tmp_path)
    monkeypatch.setattr(ImageFiles, "__call__", None)  # a second time nothing is decoded
    images = open_images(few, split, 448, cache, tmp_path)
    assert all(torch.equal(images(i), decoded[i]) for i in range(6))
    images(0).zero_()
    assert torch.equal(images(0), decoded[0]), "a returned image is a copy"
    sent = pickle.dumps(images)
    assert len(sent) < 1000, "a worker receives the folder, not the images"
    assert torch.equal(pickle.loads(sent)(5), decoded[5])


@pytest.mark.slow
def test_shared_memory_is_free_again_after_a_run(few: Path, tmp_path: Path) -> None:
    killed = Path(f"/dev/shm/sports_lightning-killed-{os.getpid()}")
    killed.mkdir()
    (killed / "pixels").touch()
    before = set(Path("/dev/shm").glob("sports_lightning-*"))
    quick = [*FAST, f"data.root={few}", "debug=fast", "data.num_workers=2"]
    run_process("train", *quick, "data.cache=ram")
    assert not killed.exists(), "the files of a killed run are removed"
    new = set(Path("/dev/shm").glob("sports_lightning-*")) - before
    assert not [folder for folder in new if FileLock(folder / ".lock").acquire()], "all others belong to a living run"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_loading_uses_only_the_cores_of_this_process() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert usable_cores() == 1
        assert count_workers("auto", "cuda") == 1
    finally:
        os.sched_setaffinity(0, cores)


def compose_frozen(few: Path, cache: Path, *overrides: str) -> DictConfig:
    return composed(
        cache,
        "data=sample",
        f"data.root={few}",
        f"data.cache_dir={cache}",
        "data.num_workers=0",
        "data.batch_size=8",
        "model=timm",
        "model.name=test_efficientnet",
        "model.pretrained=false",
        "finetune=head",
        "trainer.precision=32-true",
        "inference.accelerator=cpu",
        *overrides,
    )


def use_features(classifier: Classifier, data: SportsDataModule, cfg: DictConfig) -> FrozenPart | None:
    """Replace the images by cached outputs, as training does."""
    part = cached_part(classifier, data.index, cfg)
    if part:
        use_cached_features(part, classifier, data, cfg, FrozenPass(precision=cfg.trainer.precision))
    return part


def small(cfg: DictConfig) -> tuple[Classifier, SportsDataModule]:
    """The model and four images per split."""
    torch.manual_seed(0)
    index = open_dataset(cfg.data, ["train", "val"])
    for name, split in index.splits.items():
        index.splits[name] = Split(split.paths[::12][:4], split.labels[::12][:4], split.digests[::12][:4])
    classifier = build_classifier(cfg.model, index.classes, index.root)
    set_trainable(classifier.net, cfg.finetune)
    cfg.augment.preprocessing = classifier.spec.preprocessing
    preprocessing = Preprocessing.from_dict(classifier.spec.preprocessing)
    return classifier, SportsDataModule(index, preprocessing, cfg.data, cfg.augment, cfg.seed)


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["none", "standard"])
@pytest.mark.parametrize(
    ("model", "mode"),
    [("test_efficientnet", "head"), ("test_vit", "head")]
    + [(name, "last_stages") for name in ("test_efficientnet", "test_resnet", "test_convnext", "scratch_cnn")],
)
def test_features_give_the_logits_of_the_whole_model(
    few: Path, tmp_path: Path, model: str, mode: str, augment: str
) -> None:
    cfg = compose_frozen(
        few, tmp_path, f"augment={augment}", "augment.fixed_augmentations=2", f"model.name={model}", f"finetune={mode}"
    )
    classifier, data = small(cfg)
    images, val_images = data.train_set, data.val_set
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    part = use_features(classifier.train(), data, cfg)
    assert part
    assert all(torch.equal(tensor, before[key]) for key, tensor in classifier.state_dict().items())
    with torch.inference_mode():
        for key in ((0, 0, 0), (1, 2, 0), (4, 3, 1)):
            image, label = images[key]  # type: ignore[index]
            features, same_label = data.train_set[key]  # type: ignore[index]
            torch.testing.assert_close(part.rest(classifier.eval(), features[None]), classifier(image[None]))
            assert label == same_label
        image, label = val_images[1]
        features, same_label = data.val_set[1]
        torch.testing.assert_close(part.rest(classifier, features[None]), classifier(image[None]))
        assert label == same_label


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["head", "last_stages"])
@pytest.mark.parametrize("way", ["inference.flip_tta=true", "inference.precision=bf16-mixed"])
def test_logits_from_features_equal_those_from_images(few: Path, tmp_path: Path, mode: str, way: str) -> None:
    settings = ["augment=none", "model.name=test_resnet", f"finetune={mode}", way]
    cfg = compose_frozen(few, tmp_path, *settings)
    classifier, data = small(cfg)
    part = use_features(classifier, data, cfg)
    assert part
    torch.testing.assert_close(
        logits_from_features(part, classifier, data.index, "val", cfg.inference, tmp_path),
        compute_logits(classifier, data.index.root, data.index.splits["val"], cfg.inference),
    )


def test_no_stage_ends_between_a_convolution_and_its_batchnorm() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    net[:3].requires_grad_(False)
    assert first_modules(net, lambda: net(torch.zeros(1, 3, 2, 2))) == ["0", "1"]


def test_no_split_between_a_convolution_and_a_trainable_batchnorm() -> None:
    class Net(nn.Sequential):
        def get_classifier(self) -> nn.Module:
            return self[-1]

    stem, norm = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8)), nn.BatchNorm2d(4)
    nn.init.constant_(norm.running_var, 3)  # type: ignore[arg-type]
    net = Net(stem, norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2)).eval()
    stem.requires_grad_(False)
    preprocessing = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0,
                     "crop_mode": "center"}  # fmt: skip
    classifier = Classifier(net, ClassifierSpec("", {}, ["a", "b"], preprocessing, ""))
    assert find_frozen_part(classifier) is None
    norm.requires_grad_(False)
    part = find_frozen_part(classifier)
    assert isinstance(part, FrozenStages)
    assert part.modules == ("0", "1", "2", "3")


def test_a_distilled_model_has_features_too(tmp_path: Path) -> None:
    settings = {
        "name": "deit_tiny_distilled_patch16_224",
        "pretrained": False,
        "weights": None,
        "image_size": None,
        "crop_mode": None,
    }
    classifier = build_classifier(OmegaConf.create({**settings, "arguments": {}}), ["a", "b"], tmp_path)
    assert {name.split(".")[0] for name in classifier.net.state_dict()} == {
        *(name.split(".")[0] for name in FrozenBackbone().weights(classifier)), "head", "head_dist",
    }  # fmt: skip


def test_a_zero_head_does_not_hide_that_a_model_cannot_be_split(few: Path, tmp_path: Path) -> None:
    cfg = compose_frozen(few, tmp_path, "augment=none", "model.name=test_vit", "finetune=last_stages")
    classifier, data = small(cfg)
    nn.init.zeros_(classifier.net.get_classifier().weight)  # type: ignore[operator]
    nn.init.zeros_(classifier.net.get_classifier().bias)  # type: ignore[operator]
    assert use_features(classifier, data, cfg) is None


@pytest.mark.parametrize("mode", ["head", "last_stages"])
def test_a_model_with_operations_outside_its_stages_is_not_split(
    few: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = timm.models.EfficientNet.forward
    monkeypatch.setattr(timm.models.EfficientNet, "forward", lambda self, x: forward(self, 1 - 3 * x))
    cfg = compose_frozen(few, tmp_path, "augment=none", f"finetune={mode}", "model.name=tf_efficientnet_lite0")
    classifier, data = small(cfg)
    with caplog.at_level("INFO"):
        assert use_features(classifier, data, cfg) is None
    assert "no outputs of tf_efficientnet_lite0 can be cached" in caplog.text


def test_the_last_stages_train_identically_on_cached_features(few: Path, tmp_path: Path) -> None:
    cfg = compose_frozen(few, tmp_path, "augment=none", "model.name=test_resnet", "finetune=last_stages")
    classifier, data = small(cfg)
    images = data.train_set
    part = use_features(classifier, data, cfg)
    assert part
    gradients = []
    for dataset, forward in ((images, classifier), (data.train_set, partial(part.rest, classifier))):
        batch = torch.stack([dataset[0, i, 0][0] for i in range(4)])  # type: ignore[index]
        set_frozen_to_eval(classifier.train())
        classifier.zero_grad()
        forward(batch).logsumexp(dim=1).sum().backward()
        gradients.append([p.grad for p in classifier.parameters() if p.requires_grad])
    assert len(gradients[0]) > 2
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_stages_with_outputs_above_the_cache_limit_run_in_every_epoch(
    few: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["augment=none", "model.name=test_resnet", "finetune=last_stages", "finetune.cache_limit_gb=1e-6"]
    cfg = compose_frozen(few, tmp_path, *settings)
    classifier, data = small(cfg)
    with caplog.at_level("INFO"):
        assert use_features(classifier, data, cfg) is None
    assert "finetune.cache_limit_gb=1e-06" in caplog.text
    assert not (tmp_path / "features").exists()


@pytest.mark.slow
def test_features_are_recomputed_only_if_something_changes_them(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries(*overrides: str, change: bool = False) -> int:
        cfg = compose_frozen(few, tmp_path, *overrides)
        classifier, data = small(cfg)
        if change:
            with torch.no_grad():
                next(classifier.net.parameters())[0] += 1
        assert use_features(classifier, data, cfg)
        return len(list((tmp_path / "features").iterdir()))

    assert entries("augment=none") == 2, "one for each split"
    assert entries("augment=none", "optimizer.lr=0.5", "seed=3", "trainer.max_epochs=99", "finetune=head") == 2
    assert entries("augment=none", change=True) == 4, "other weights"
    assert entries("augment=none", "model.image_size=64") == 6, "another preprocessing"
    assert entries("augment=standard", "augment.fixed_augmentations=2") == 8, (
        "two more augmentations; validation is cached"
    )
    assert entries("augment=standard", "augment.fixed_augmentations=3") == 9, "one more augmentation"
    assert entries("augment=standard", "augment.fixed_augmentations=3", "seed=1") == 12, "other draws"
    assert entries("augment=none", "finetune=last_stages") == 14, "another frozen part"
    assert entries("augment=none", "finetune=last_stages", "finetune.stages=2") == 16, "another number of stages"
    assert entries("augment=none", "trainer.precision=bf16-mixed") == 18, "another precision"
    monkeypatch.setattr(predictor, "device_type", lambda accelerator: "cuda")
    assert entries("augment=none") == 20, "another type of device"


def test_the_backbone_runs_where_features_cannot_be_cached(few: Path, tmp_path: Path) -> None:
    for overrides in (["augment=standard"], ["augment=none", "augment.mixup=0.2"], ["augment=none", "finetune=full"]):
        cfg = compose_frozen(few, tmp_path, *overrides)
        classifier, data = small(cfg)
        assert not use_features(classifier, data, cfg)


@pytest.mark.slow
def test_a_second_run_uses_the_cached_features_and_has_the_same_metrics(few: Path, tmp_path: Path) -> None:
    overrides = [
        *FAST, f"data.root={few}", "logger=csv", "model=timm", "model.name=test_efficientnet",
        "model.pretrained=false", "finetune=head", "augment=none", "trainer.max_epochs=2", "optimizer.lr=0.01",
        "+model.arguments.drop_rate=0.3",
    ]  # fmt: skip
    runs = [run_command("train", *overrides) for _ in range(2)]
    assert "running the frozen backbone" in runs[0].stdout
    assert "running the frozen backbone" not in runs[1].stdout
    folders = [Path(run.stdout.strip().splitlines()[-1]) for run in runs]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert metrics[0] == metrics[1]
    # evaluate runs the whole model on the images
    evaluated = run_command("evaluate", f"ckpt_path={folders[0]}/checkpoints/best.ckpt")
    whole = json.loads((Path(evaluated.stdout.strip().splitlines()[-1]) / "metrics.json").read_text())
    for name in ("loss", "acc", "f1_macro", "ece", "brier"):
        assert whole["test"][name] == pytest.approx(metrics[0]["test"][name], abs=1e-5)


def test_large_jpegs_are_scaled_while_they_are_decoded(tmp_path: Path) -> None:
    from sports_lightning.data.decode import decode

    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    whole, scaled = decode(tmp_path / "large.jpg"), decode(tmp_path / "large.jpg", 448)
    assert whole.shape == (3, 1200, 1600)
    assert scaled.shape == (3, 600, 800), "a quarter would be below 448"
    pooled = torch.nn.functional.avg_pool2d(whole.float(), 2)
    assert (pooled - scaled.float()).abs().mean() < 1
