"""The sources of backbones and their weights: timm's registry, a local folder, a checkpoint of an earlier run."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from omegaconf import OmegaConf
from timm.models import register_model
from torch import Tensor, nn

from conftest import composed, model_config
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.errors import UserError
from sports_lightning.models.classifier import CHECKPOINT_KEY, Classifier, build_classifier, load_classifier
from sports_lightning.models.freezing import set_trainable
from sports_lightning.models.pretrained import load_weights
from sports_lightning.runs.checkpoint_files import load_checkpoint
from sports_lightning.train.build import build_module

CLASSES = ["bowling", "judo", "tennis"]
IMAGES = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def save(classifier: Classifier, path: Path, infix: str = "") -> Path:
    state = {f"classifier.net.{infix}{k}": v for k, v in classifier.net.state_dict().items()}
    torch.save({CHECKPOINT_KEY: asdict(classifier.spec), "state_dict": state}, path)
    return path


def test_a_local_folder_of_timm_is_a_model(tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(net, tmp_path, model_args={"drop_rate": 0.25})
    classifier = build_classifier(model_config(f"local-dir:{tmp_path}", pretrained=True), CLASSES, tmp_path)
    assert classifier.net.conv1[0].weight.equal(net.conv1[0].weight)  # type: ignore[index,union-attr]
    assert classifier.spec.architecture == "test_resnet"
    assert classifier.spec.arguments["drop_rate"] == 0.25
    loaded = load_classifier(save(classifier, tmp_path / "best.ckpt"))  # without the folder
    assert loaded(IMAGES).equal(classifier.eval()(IMAGES))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("local-dir:/missing/folder", {}, "config.json"),
        ("s3:bucket/model", {}, "Unknown model source"),
        ("timm/resnet18", {}, "hf-hub:timm/resnet18"),
        ("resnet5", {}, "not known to timm"),
        ("test_resnet", {"base_width": 32}, "does not support changing base width"),
        ("test_resnet", {"in_chans": 4}, "in_chans=4: images are RGB or converted to gray"),
    ],
)
def test_impossible_models_are_one_line(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build_classifier(model_config(name, arguments=arguments), CLASSES, Path())
    assert "\n" not in str(raised.value)


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        build_classifier(model_config("hf-hub:nobody/nothing"), CLASSES, Path())


def test_a_checkpoint_never_makes_timm_read_other_files(tmp_path: Path) -> None:
    classifier = build_classifier(model_config("test_resnet"), CLASSES, tmp_path)
    state = {f"classifier.net.{k}": v for k, v in classifier.net.state_dict().items()}
    spec = asdict(classifier.spec) | {"architecture": "hf-hub:nobody/nothing"}
    torch.save({CHECKPOINT_KEY: spec, "state_dict": state}, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="not known to timm"):
        load_classifier(tmp_path / "best.ckpt")


@pytest.mark.parametrize("infix", ["", "_orig_mod."], ids=["plain", "compiled"])
def test_training_starts_from_a_checkpoint(tmp_path: Path, infix: str) -> None:
    first = build_classifier(model_config("test_resnet", image_size=64), CLASSES, tmp_path)
    path = save(first, tmp_path / "best.ckpt", infix)
    same = build_classifier(model_config("test_resnet", weights=str(path)), CLASSES, tmp_path)
    assert same.spec.preprocessing == first.spec.preprocessing
    assert same.eval()(IMAGES).equal(first.eval()(IMAGES)), "the head too"
    tagged = build_classifier(model_config("test_resnet.r160_in1k", weights=str(path)), CLASSES, tmp_path)
    assert tagged.eval()(IMAGES).equal(first.eval()(IMAGES)), "the same network, named with timm's tag"
    other = build_classifier(model_config("test_resnet", weights=str(path)), [*CLASSES, "polo"], tmp_path)
    differing = {k for k, v in first.net.state_dict().items() if not v.equal(other.net.state_dict()[k])}
    assert differing == {"fc.weight", "fc.bias"}
    with pytest.raises(UserError, match=r"is a test_resnet, and model\.name=test_vit"):
        build_classifier(model_config("test_vit", weights=str(path)), CLASSES, tmp_path)
    settings = model_config("test_resnet", weights=str(path), arguments={"stem_type": ""})
    with pytest.raises(UserError, match="does not match test_resnet"):
        build_classifier(settings, CLASSES, tmp_path)


def test_a_head_is_loaded_in_another_order_of_its_classes(tmp_path: Path) -> None:
    first = build_classifier(model_config("test_resnet", image_size=64), CLASSES, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    save(first, tmp_path / "checkpoints/best.ckpt")
    reversed_ = build_classifier(model_config("test_resnet", weights=str(tmp_path)), CLASSES[::-1], tmp_path)
    torch.testing.assert_close(reversed_.eval()(IMAGES), first.eval()(IMAGES).flip(1))


NET = timm.create_model("test_resnet", num_classes=7)
STATE = NET.state_dict()


def renamed(prefix: str, scale: float = 1.0) -> dict[str, Tensor]:
    return {f"{prefix}{name}": scale * tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        renamed("_orig_mod."),
        {"state_dict": renamed("module."), "epoch": 3},
        {"state_dict": renamed("", 0.0), "state_dict_ema": STATE, "arch": "x"},
        {"state_dict": renamed("model.") | {"criterion.weight": torch.ones(3)}, "hyper_parameters": {"lr": 1}},
        {"state_dict": renamed("net._orig_mod.")},
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
        {"model": renamed("_forward_module.module.")},
    ],
    ids=["compiled", "ddp", "ema", "lightning", "compiled lightning", "tutorial", "fabric"],
)
def test_training_starts_from_the_weights_of_other_trainers(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth.tar")
    classifier = build_classifier(
        model_config("test_resnet", weights=str(tmp_path / "weights.pth.tar")), CLASSES, tmp_path
    )
    loaded = classifier.net.state_dict()
    assert {name for name, tensor in STATE.items() if not tensor.equal(loaded[name])} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(NET, r"a Python object \(timm.*state_dict\(\)"), ([1], "holds a list"), ({"epoch": 1}, "holds no weights")],
    ids=["module", "list", "empty"],
)
def test_other_content_of_a_weight_file_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        build_classifier(model_config("test_resnet", weights=str(tmp_path / "weights.pth")), CLASSES, tmp_path)


def test_a_checkpoint_in_a_folder_whose_name_is_not_utf8_is_read(tmp_path: Path) -> None:
    (folder := tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    torch.save({"epoch": 3}, folder / "last.ckpt")
    assert load_checkpoint(folder / "last.ckpt", mapped=True)["epoch"] == 3


class Plain(nn.Module):
    """A backbone with nothing but `forward`."""

    def __init__(self, num_classes: int = 3, **_: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(4 * 64, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@register_model
def plain_of_a_user(pretrained: bool = False, **kwargs: Any) -> Plain:
    kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None), kwargs.pop("cache_dir", None)
    return Plain(**kwargs)


class PlainWithHead(Plain):
    """A backbone of which timm can replace the head, without `pretrained_cfg`."""

    num_classes = 3

    def reset_classifier(self, num_classes: int) -> None:
        self.layers[2] = nn.Linear(4 * 64, num_classes) if num_classes else nn.Identity()


@register_model
def plain_with_head_of_a_user(pretrained: bool = False, **kwargs: Any) -> Plain:
    kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None), kwargs.pop("cache_dir", None)
    return PlainWithHead(**kwargs)


def test_a_backbone_unknown_to_timm_gets_weights_and_progressive_sizes(tmp_path: Path) -> None:
    own = PlainWithHead()
    torch.save({name: value for name, value in own.state_dict().items() if "2." not in name}, tmp_path / "weights.pth")
    settings = ["model=timm", "model.name=plain_with_head_of_a_user", "model.image_size=64", "augment=none"]
    cfg = composed(tmp_path, *settings, f"model.weights={tmp_path}/weights.pth", "augment.progressive_sizes=[[0,32]]")
    index = DatasetIndex(tmp_path, CLASSES, {"train": Split(["a"], [0], ["d"])})
    net: Any = build_module(cfg, index).classifier.net
    assert net.layers[0].weight.equal(own.layers[0].weight)
    with pytest.raises(UserError, match="no weights"):
        load_weights(net, "plain", tmp_path / "weights.pth", {})
    assert not net._load_state_dict_post_hooks


def test_a_backbone_needs_only_forward_to_be_trained_as_a_whole(tmp_path: Path) -> None:
    classifier = build_classifier(model_config("plain_of_a_user", image_size=64), CLASSES, tmp_path)
    set_trainable(classifier.net, OmegaConf.create({"mode": "full"}))
    classifier(IMAGES).sum().backward()
    assert load_classifier(save(classifier, tmp_path / "best.ckpt"))(IMAGES).equal(classifier.eval()(IMAGES))
    torch.save({"layers.2.weight": torch.zeros(3, 256)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="no reset_classifier"):
        build_classifier(model_config("plain_of_a_user", weights=str(tmp_path / "weights.pth")), CLASSES, tmp_path)
    with pytest.raises(UserError, match="no get_classifier"):
        set_trainable(classifier.net, OmegaConf.create({"mode": "head"}))
    with pytest.raises(UserError, match="no forward_head"):
        classifier.features(IMAGES)
