"""One preprocessing, resolved once: train, evaluate and predict compute the same pixels as timm."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import timm.data
import torch
from omegaconf import OmegaConf
from PIL import Image

import sports_lightning as sl
from commands import run_command
from sports_lightning.data.augment import EpochTransform
from sports_lightning.data.dataset_index import Split
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.inference import predictor as inference
from sports_lightning.models.classifier import Classifier, build_classifier, load_classifier
from sports_lightning.predict import prediction


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A smooth image of an odd size."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((310, 230), Image.Resampling.BICUBIC).save(tmp_path / "odd.png")
    return tmp_path / "odd.png"


@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_tiny"])
def test_equals_timms_own_evaluation_transform(name: str, image: Path) -> None:
    cfg = timm.get_pretrained_cfg(name).to_dict()
    ours = Preprocessing.from_pretrained_cfg(cfg)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=cfg))
    with Image.open(image) as opened:
        expected = theirs(opened.convert("RGB"))
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    got = ours.transform()(pixels)
    mean, std = torch.tensor(ours.mean).view(3, 1, 1), torch.tensor(ours.std).view(3, 1, 1)
    difference = (got / 255 - mean) / std - expected
    # PIL and torchvision differ by one gray level in some pixels, because of rounding.
    assert difference.abs().max() < 3 / 255 / min(ours.std)
    assert difference.abs().mean() < 0.5 / 255 / min(ours.std)


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 64)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_every_crop_mode_equals_timms(crop_mode: str, size: tuple[int, int], image: Path) -> None:
    cfg = timm.get_pretrained_cfg("resnet50").to_dict() | {"interpolation": "bilinear", "crop_pct": 1.0}
    ours = Preprocessing.from_pretrained_cfg(cfg).changed(size, crop_mode)
    assert (ours.size, ours.crop_mode) == (size, crop_mode)
    config = timm.data.resolve_data_config({"input_size": (3, *size), "crop_mode": crop_mode}, pretrained_cfg=cfg)
    theirs = timm.data.create_transform(**config, normalize=False)
    with Image.open(image) as opened:
        expected = theirs(opened.convert("RGB"))
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    difference = (ours.transform()(pixels).float() - expected.float()).abs()
    assert difference.max() <= 2, "PIL and torchvision round differently"
    if crop_mode == "border":
        ours_corner, their_corner = (ours.transform()(pixels)[:, 0, 0], expected[:, 0, 0])
        assert torch.equal(ours_corner, their_corner), "padded with the mean"


def test_a_chosen_crop_mode_keeps_the_whole_image(tmp_path: Path) -> None:
    model = {"name": "test_resnet", "pretrained": False, "weights": None, "arguments": {"in_chans": 1}}
    model |= {"image_size": [48, 96], "crop_mode": "squash"}
    classifier = build_classifier(OmegaConf.create(model), ["a", "b"], tmp_path)
    preprocessing = classifier.preprocessing
    assert (preprocessing.size, preprocessing.crop_mode, preprocessing.crop_pct) == ((48, 96), "squash", 1.0)
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    image[:, :10] = image[:, -10:] = image[:, :, :10] = image[:, :, -10:] = 255
    result = preprocessing.transform()(image)
    assert result.shape == (3, 48, 96)
    assert result[:, 0].min() == result[:, :, -1].min() == 255, "the frame is kept"


def test_a_network_of_one_channel_gets_the_luma_of_an_image(tmp_path: Path, image: Path) -> None:
    model = {"name": "scratch_cnn", "pretrained": False, "weights": None, "arguments": {"in_chans": 1}}
    model |= {"image_size": None, "crop_mode": None}
    classifier = build_classifier(OmegaConf.create(model), ["a", "b"], tmp_path)
    received: list[torch.Tensor] = []
    classifier.net.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    with Image.open(image) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
        gray = torch.from_numpy(np.array(opened.convert("L"))) / 255
    assert classifier(pixels[None]).shape == (1, 2)
    assert received[0].shape == (1, 1, *pixels.shape[1:])
    mean, std = sum((0.485, 0.456, 0.406)) / 3, sum((0.229, 0.224, 0.225)) / 3
    assert (received[0][0, 0] * std + mean - gray).abs().max() < 0.6 / 255, "Pillow rounds to whole gray levels"


def test_weights_of_three_channels_are_summed_for_a_gray_network(tmp_path: Path) -> None:
    color, settings = timm.create_model("test_resnet", num_classes=5), {"name": "test_resnet", "pretrained": False}
    torch.save(color.state_dict(), tmp_path / "weights.pth")
    settings |= {"image_size": None, "crop_mode": None, "weights": str(tmp_path / "weights.pth")}
    gray = build_classifier(OmegaConf.create(settings | {"arguments": {"in_chans": 1}}), ["a", "b"], tmp_path).net
    first = next(iter(color.state_dict()))
    assert torch.allclose(gray.state_dict()[first], color.state_dict()[first].sum(1, keepdim=True))


def test_a_checkpoint_of_an_earlier_version_has_no_value_range() -> None:
    stored = Preprocessing((2, 2), (0.5,), (0.5,), "bilinear", 1.0, "center").to_dict()
    del stored["value_range"]
    assert Preprocessing.from_dict(stored).value_range is None
    read = Preprocessing.from_dict(OmegaConf.create({**stored, "value_range": [0.0, 4095.0]}))
    assert read == replace(Preprocessing.from_dict(stored), value_range=(0.0, 4095.0))
    assert type(read.value_range) is tuple, "a part of the keys of caches, as JSON"


def test_progressive_sizes_keep_the_aspect_ratio() -> None:
    cfg = OmegaConf.create({"augment": OmegaConf.load(Path(__file__).parents[1] / "conf/augment/none.yaml")})
    cfg.augment.preprocessing = Preprocessing((64, 128), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center").to_dict()
    cfg.augment.progressive_sizes = [[0, 32]]
    assert EpochTransform(cfg.augment)(0)(torch.zeros(3, 50, 50, dtype=torch.uint8)).shape == (3, 32, 64)


def test_train_evaluate_and_predict_feed_the_network_the_same(
    trained: tuple[Path, str], few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record the input of the backbone for one image in each of the three commands."""
    from image_lists import list_index
    from sports_lightning.data.datamodule import SportsDataModule

    classifier = load_classifier(trained[0] / "checkpoints/best.ckpt")
    received: list[torch.Tensor] = []
    classifier.net.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0].detach().clone()))
    defaults = OmegaConf.load(Path(__file__).parents[1] / "conf/inference/default.yaml")
    settings = OmegaConf.merge(defaults, {"accelerator": "cpu", "batch_size": 1, "num_workers": 0})
    index = list_index(few, ["train", "val"])
    path = index.splits["val"].paths[0]
    split = Split([path], [0])

    augment = OmegaConf.load(Path(__file__).parents[1] / "conf/augment/none.yaml")
    cfg = OmegaConf.create({"augment": augment})
    cfg.augment.preprocessing = classifier.spec.preprocessing
    from sports_lightning.data.dataset import TrainingImages
    from sports_lightning.data.decoded_cache import ImageFiles

    files = ImageFiles(few, split, None)
    image, _ = TrainingImages(files, split.labels, EpochTransform(cfg.augment), seed=0)[0, 0, 0]
    classifier(image[None])
    folder = OmegaConf.merge(
        OmegaConf.load(Path(__file__).parents[1] / "conf/data/folder.yaml"), {"batch_size": 1, "num_workers": 0}
    )
    data = SportsDataModule(index, Preprocessing.from_dict(classifier.spec.preprocessing), folder, cfg.augment, 0)  # type: ignore[arg-type]
    classifier(next(iter(data.val_dataloader()))[0])
    inference.compute_logits(classifier, few, split, settings)
    prediction.predict_images(classifier, [str(few / path)], settings)

    assert len(received) == 4
    assert received[0].std() > 0.1
    for other in received[1:]:
        assert torch.equal(received[0], other)


@pytest.mark.slow
def test_crop_mode_of_predict_is_that_of_the_model(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.open(next((few / "test").rglob("*.jpg"))).resize((300, 100)).save(wide)
    found = {}
    for mode in ("null", "center", "squash", "border"):
        folder = tmp_path / mode
        run_command(
            "predict", f"ckpt_path={trained[0]}", str(wide), f"data.crop_mode={mode}", f"hydra.run.dir={folder}",
            "save=[probabilities]",
        )  # fmt: skip
        found[mode] = np.load(folder / "predictions.npz")["probabilities"]
    assert np.array_equal(found["null"], found["center"])
    assert not np.array_equal(found["null"], found["squash"])
    assert not np.array_equal(found["squash"], found["border"])
    classifier = sl.load(trained[0])
    squashed = Image.open(wide).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(classifier.predict_proba([squashed]) - found["squash"]).max() < 1e-3


def test_image_size_is_the_only_thing_that_an_override_changes(tmp_path: Path) -> None:
    model = {
        "name": "resnet18",
        "pretrained": False,
        "weights": None,
        "image_size": 96,
        "crop_mode": None,
        "arguments": {},
    }
    spec = build_classifier(OmegaConf.create(model), ["a", "b"], tmp_path).spec
    plain = Preprocessing.from_pretrained_cfg(timm.get_pretrained_cfg("resnet18").to_dict()).to_dict()
    assert spec.preprocessing == {**plain, "size": [96, 96]}


@pytest.mark.parametrize("name", ["simple_cnn", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("size", [96, [96, 64]])
def test_models_of_a_fixed_size_follow_image_size(name: str, size: int | list[int], tmp_path: Path) -> None:
    model = {"name": name, "pretrained": False, "weights": None, "image_size": size, "crop_mode": None, "arguments": {}}
    classifier: Callable[[torch.Tensor], torch.Tensor] = build_classifier(OmegaConf.create(model), ["a", "b"], tmp_path)
    assert isinstance(classifier, Classifier)
    assert not isinstance(classifier, pl.LightningModule)
    height, width = classifier.preprocessing.size
    assert (height, width) == ((96, 96) if size == 96 else (96, 64))
    assert classifier(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape == (1, 2)
