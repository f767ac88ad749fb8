"""Backbones, freezing, losses, weights, and writing and reading checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from omegaconf import OmegaConf
from timm.layers import StdConv2d
from torch import nn

from conftest import model_config
from sports_lightning.errors import UserError
from sports_lightning.models.classifier import Classifier, ClassifierSpec, build_classifier, load_classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn
from sports_lightning.models.freezing import count_parameters, set_trainable
from sports_lightning.train.losses import loss_function
from sports_lightning.train.module import ClassifierModule

CLASSES = [f"class {i:03d}" for i in range(100)]


def module(classifier: Classifier, **finetune: object) -> ClassifierModule:
    nothing = OmegaConf.create({})
    return ClassifierModule(classifier, nn.CrossEntropyLoss(), nothing, nothing, OmegaConf.create(finetune), 0)


def test_simple_cnn_is_the_notebooks_network(tmp_path: Path) -> None:
    net = build_classifier(model_config("simple_cnn"), CLASSES, tmp_path).net
    assert count_parameters(net)[0] == 19_314_596
    shapes = [tuple(p.shape) for name, p in net.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3), (512, 36864), (100, 512)]
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
    first = net.features[0].weight  # type: ignore[index,union-attr]
    bound = (6 / (3 * 9 + 32 * 9)) ** 0.5  # Glorot and Bengio 2010
    assert 0.95 * bound < first.abs().max() <= bound


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("convnext_atto", 16, "Kernel size"),
        ("simple_cnn", [20, 224], "at least 46 pixels"),
        ("test_vit", 33, "divisible by patch"),
    ],
)
def test_an_image_size_that_does_not_fit_is_refused(name: str, size: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"model\.image_size=.* does not fit {name}: .*{reason}"):
        build_classifier(model_config(name, image_size=size), CLASSES, tmp_path)


def test_an_image_size_is_not_refused_for_what_another_device_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: object, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError(f"no kernel on {images.device}")

    monkeypatch.setattr("sports_lightning.models.scratch_cnn.ScratchCNN.forward", forward)
    build_classifier(model_config("scratch_cnn", image_size=32), CLASSES, tmp_path)


def test_scratch_cnn_has_at_most_a_fifth_of_the_parameters(tmp_path: Path) -> None:
    assert count_parameters(build_classifier(model_config("scratch_cnn"), CLASSES, tmp_path))[0] <= 19_314_596 / 5


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "scratch_cnn", "simple_cnn", "vit_tiny_patch16_224"]
)
def test_only_the_head_is_trainable_and_the_rest_is_unchanged(name: str, tmp_path: Path) -> None:
    classifier = build_classifier(model_config(name), CLASSES, tmp_path)
    trainee = module(classifier, mode="head").train()
    head = set(classifier.net.get_classifier().parameters())  # type: ignore[operator]
    assert {p for p in classifier.net.parameters() if p.requires_grad} == head
    before = {k: v.clone() for k, v in classifier.net.state_dict().items()}
    size = classifier.spec.preprocessing["size"]
    loss = trainee.loss(classifier(torch.randint(256, (2, 3, *size), dtype=torch.uint8)), torch.tensor([0, 1]))
    loss.backward()
    torch.optim.SGD(classifier.net.parameters(), 0.1).step()
    changed = {k for k, v in classifier.net.state_dict().items() if not torch.equal(v, before[k])}
    names = {name for name, p in classifier.net.named_parameters() if p in head}
    assert changed == names, "neither weights nor BatchNorm statistics of the frozen part changed"


def test_dropout_among_frozen_layers_is_in_eval_mode(tmp_path: Path) -> None:
    arguments = {"pos_drop_rate": 0.5, "drop_rate": 0.5}
    classifier = build_classifier(model_config("test_vit", arguments=arguments), CLASSES, tmp_path)
    assert not module(classifier, mode="head").train().classifier.net.pos_drop.training  # type: ignore[union-attr]
    assert classifier.net.head_drop.training  # type: ignore[union-attr]
    assert module(classifier, mode="full").train().classifier.net.pos_drop.training  # type: ignore[union-attr]


def test_an_unknown_argument_is_not_reported_as_an_error_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sports_lightning.models.backbone.check_hub", lambda name: None)
    of_model = OmegaConf.merge(model_config("test_resnet", arguments={"droprate": 0.5}), {"pretrained": True})
    with pytest.raises(UserError, match=r"model\.arguments.*droprate"):
        build_classifier(of_model, CLASSES, tmp_path)


def test_every_model_trains_as_a_whole_or_with_its_head_only(tmp_path: Path) -> None:
    net = build_classifier(model_config("poolformer_s12"), CLASSES, tmp_path).net  # whose stages timm does not know
    set_trainable(net, OmegaConf.create({"mode": "head"}))
    assert {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad} == {"head"}
    set_trainable(net, OmegaConf.create({"mode": "full"}))
    assert all(p.requires_grad for p in net.parameters())


def test_last_stages_and_gradual_unfreeze_the_last_layers_first(tmp_path: Path) -> None:
    net = build_classifier(model_config("resnet18"), CLASSES, tmp_path).net

    def trainable() -> set[str]:
        return {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}

    set_trainable(net, OmegaConf.create({"mode": "last_stages", "stages": 2}))
    assert trainable() == {"layer3", "layer4", "fc"}
    gradual = OmegaConf.create({"mode": "gradual", "epochs_per_stage": 2})
    expected = [{"fc"}, {"fc"}, {"fc", "layer4"}, {"fc", "layer4"}, {"fc", "layer4", "layer3"}]
    for epoch, parts in enumerate(expected):
        set_trainable(net, gradual, epoch)
        assert trainable() == parts
    set_trainable(net, gradual, 1000)
    assert all(p.requires_grad for p in net.parameters())


def test_balanced_class_weights_equal_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    loss = OmegaConf.create({"class_weights": "balanced", "function": {"_target_": "torch.nn.CrossEntropyLoss"}})
    labels = [0] * 5 + [1] * 3 + [2] * 2
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert loss_function(loss, ["a", "b", "c"], [5, 3, 2]).weight.tolist() == pytest.approx(list(expected))


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        ("CrossEntropyLoss", {"label_smoothing": 2.0}, "label_smoothing must be between 0.0 and 1.0"),
        ("CrossEntropyLoss", {"reduction": "none"}, "gives 2 values for a batch"),
        ("MSELoss", {}, "loss.function gives no loss"),
    ],
)
def test_a_loss_that_cannot_be_trained_is_said_at_once(target: str, arguments: dict[str, Any], said: str) -> None:
    function = {"_target_": f"torch.nn.{target}", **arguments}
    with pytest.raises(UserError, match=said):
        loss_function(OmegaConf.create({"class_weights": None, "function": function}), ["a", "b", "c"], [5, 3, 2])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_are_loaded_and_their_head_dropped(suffix: str, tmp_path: Path) -> None:
    donor = timm.create_model("resnet18", num_classes=1000)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(donor.state_dict(), path)
    else:
        safetensors.torch.save_file(donor.state_dict(), path)
    net = build_classifier(model_config("resnet18", weights=str(path), pretrained=True), CLASSES, tmp_path).net
    assert torch.equal(net.layer4[0].conv1.weight, donor.layer4[0].conv1.weight)  # type: ignore[index,union-attr]
    assert net.fc.out_features == 100  # type: ignore[union-attr]


def test_checkpoint_is_plain_data(trained: tuple[Path, str]) -> None:
    path = trained[0] / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["sports_lightning"]) == {
        *("architecture", "arguments", "classes", "preprocessing", "data_root", "trained_on", "temperature")
    }
    classifier = load_classifier(path)
    assert not classifier.training
    assert len(classifier.spec.classes) == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("tf_efficientnet_lite0", 0),
        ("scratch_cnn", 0),
        ("densenet121", 62),
        ("vit_tiny_patch16_224", 0),
    ],
)
def test_conv_bn_fusion_gives_the_same_logits(name: str, left: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(model_config(name), CLASSES, tmp_path).double().eval()
    for part in classifier.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                tensor.data.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    images = torch.randint(256, (2, 3, *classifier.spec.preprocessing["size"]), dtype=torch.uint8)
    fast = fuse_conv_bn(classifier)
    with torch.inference_mode():
        torch.testing.assert_close(fast(images), classifier(images), rtol=1e-6, atol=1e-6)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in fast.modules()) == left, (
        "a BatchNorm before a convolution is not fused"
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in classifier.state_dict().items())


def test_convolutions_with_other_operations_are_not_fused() -> None:
    net = nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2)).eval()
    with torch.no_grad():
        net[1].running_var.fill_(3)  # type: ignore[union-attr,operator]
    preprocessing = build_classifier(model_config("test_resnet"), CLASSES, Path()).spec.preprocessing
    classifier = Classifier(net, ClassifierSpec("", {}, ["a", "b"], preprocessing, ""))
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(fuse_conv_bn(classifier)(images), classifier(images))
