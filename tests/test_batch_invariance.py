"""The logits of an image do not depend on the other images that are evaluated with it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.inference.frozen_part import FrozenBackbone, FrozenPart, find_frozen_part
from sports_lightning.inference.predictor import pad_batch, run_batches
from sports_lightning.models.classifier import Classifier, ClassifierSpec, build_classifier

CLASSES = ["a", "b", "c"]


def inference(**changes: Any) -> DictConfig:
    settings = {"accelerator": "cpu", "precision": "32-true", "compile": False, "flip_tta": False}
    return OmegaConf.create({**settings, "batch_size": 8, "num_workers": 0, **changes})


def images(count: int, size: int = 64) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=draws).permute(0, 3, 1, 2)


class BatchSizeDependent(nn.Module):
    """Adds the batch size to its logits, as an extreme case of kernels that choose their blocking by it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(dim=(2, 3)) + 1e-3 * len(inputs)


@pytest.mark.parametrize("flip_tta", [False, True])
def test_every_batch_has_the_same_size(flip_tta: bool) -> None:
    preprocessing = Preprocessing((4, 4), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")
    classifier = Classifier(BatchSizeDependent(), ClassifierSpec("none", {}, CLASSES, preprocessing.to_dict(), ""))
    settings = inference(flip_tta=flip_tta)
    pixels = images(20, size=4)
    expected = run_all(Classifier.forward, classifier, pixels[:16], settings)
    for count in (1, 3, 8, 9, 13, 20):
        logits = run_all(Classifier.forward, classifier, pixels[:count], settings)
        assert logits.shape == (count, 3)
        assert logits[:16].equal(expected[:count]), count
    assert not classifier(pixels[:1]).equal(expected[:1]), "this network does depend on the batch size"


def test_a_batch_is_padded_with_its_last_item() -> None:
    batch = images(3)
    padded = pad_batch(batch, 8)
    assert padded[:3].equal(batch)
    assert padded[3:].equal(batch[2:].expand(5, -1, -1, -1))
    assert pad_batch(padded, 8) is padded


def model_config(name: str) -> DictConfig:
    return OmegaConf.create(
        {"name": name, "pretrained": False, "weights": None, "image_size": 64, "crop_mode": None, "arguments": {}}
    )


def network(name: str) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(model_config(name), CLASSES, Path()).eval()


def run_all(function: Any, classifier: Classifier, inputs: Tensor, settings: DictConfig) -> Tensor:
    outputs: list[Tensor] = []
    run_batches(function, classifier, TensorDataset(inputs), settings, outputs.append)
    return torch.cat(outputs)


def check_invariance(name: str, settings: DictConfig) -> None:
    classifier, pixels = network(name), images(45)
    logits = run_all(Classifier.forward, classifier, pixels, settings)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(1))
    for chosen in (torch.tensor([44]), torch.arange(3, 20), order, order[:33]):
        assert run_all(Classifier.forward, classifier, pixels[chosen], settings).equal(logits[chosen]), name
    for parameter in classifier.net.parameters():
        parameter.requires_grad_(False)
    classifier.net.get_classifier().requires_grad_(True)  # type: ignore[operator]
    part: FrozenPart | None = find_frozen_part(classifier)
    assert isinstance(part, FrozenBackbone)
    features = run_all(part.run, classifier, pixels, settings)
    assert run_all(part.rest, classifier, features[:33], settings).equal(logits[:33]), "through cached features"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scratch_cnn", "test_vit"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_logits_do_not_depend_on_the_other_images(name: str, precision: str) -> None:
    check_invariance(name, inference(batch_size=32, precision=precision))


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    ],
    ids=["default", "avx2-two-threads"],
)
def test_logits_do_not_depend_on_the_other_images_on_other_cpus(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a separate process, because the libraries choose their kernels once per process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = (
        "import test_batch_invariance as t\n"
        "for name in ('test_efficientnet', 'test_vit'):\n"
        "    t.check_invariance(name, t.inference(batch_size=32))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
