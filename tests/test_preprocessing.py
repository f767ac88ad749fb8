"""One preprocessing, resolved once: train, evaluate and predict compute the same pixels as timm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import timm.data
import torch
from omegaconf import OmegaConf
from PIL import Image

from sports_lightning.data.image_folder import Split
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


def test_train_evaluate_and_predict_feed_the_network_the_same(
    trained: tuple[Path, str], few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record the input of the backbone for one image in each of the three commands."""
    from sports_lightning.data.datamodule import SportsDataModule
    from sports_lightning.data.image_folder import read_image_folder

    classifier = load_classifier(trained[0] / "checkpoints/best.ckpt")
    received: list[torch.Tensor] = []
    classifier.net.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0].detach().clone()))
    defaults = OmegaConf.load(Path(__file__).parents[1] / "conf/inference/default.yaml")
    settings = OmegaConf.merge(defaults, {"accelerator": "cpu", "batch_size": 1, "num_workers": 0})
    index = read_image_folder(few, ["train", "val"])
    path = index.splits["val"].paths[0]
    split = Split([path], [0])

    augment = OmegaConf.load(Path(__file__).parents[1] / "conf/augment/none.yaml")
    cfg = OmegaConf.create({"augment": augment})
    cfg.augment.preprocessing = classifier.spec.preprocessing
    from sports_lightning.data.augment import EpochTransform
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
def test_models_of_a_fixed_size_follow_image_size(name: str, tmp_path: Path) -> None:
    model = {"name": name, "pretrained": False, "weights": None, "image_size": 96, "crop_mode": None, "arguments": {}}
    classifier: Callable[[torch.Tensor], torch.Tensor] = build_classifier(OmegaConf.create(model), ["a", "b"], tmp_path)
    assert isinstance(classifier, Classifier)
    assert not isinstance(classifier, pl.LightningModule)
    assert classifier(torch.zeros(1, 3, 96, 96, dtype=torch.uint8)).shape == (1, 2)
