"""The pass through a frozen part: engines, precisions, and the choice among them. Nothing here asserts a time."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands import run_command
from conftest import FAST
from frozen_modules import frozen_module
from sports_lightning.errors import UserError
from sports_lightning.inference import devices
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.frozen_pass import FrozenPass, OpenVINOPass
from sports_lightning.models.classifier import Classifier, load_classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn
from sports_lightning.serve.neighbours import TrainingNeighbours, find_training_images
from sports_lightning.train import auto_values, pass_choice
from sports_lightning.train import fit as fitting
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.pass_choice import PassChoice, choose_pass, pass_rate
from sports_lightning.train.precision import PrecisionChoice

IMAGES = torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
STEPS = PrecisionChoice("32-true", "requested", {})


@pytest.fixture
def module(few: Path, tmp_path: Path) -> ClassifierModule:
    return frozen_module(few, tmp_path, "head")


@pytest.mark.parametrize("finetune", ["head", "last_stages"])
def test_openvino_computes_what_pytorch_does_and_ends_with_the_pass(few: Path, tmp_path: Path, finetune: str) -> None:
    module = frozen_module(few, tmp_path, finetune)
    classifier, part = fuse_conv_bn(module.classifier), module.frozen
    assert part
    function = OpenVINOPass(part, "32-true")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # as Lightning calls it
        found = [function(classifier, images) for images in (IMAGES, IMAGES.flip(0))]
    with torch.inference_mode():
        expected = part.run(classifier, IMAGES)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(found[1], expected.flip(0), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    process = function._process.process
    del function
    assert process.poll() is not None
    assert sys.modules["openvino_telemetry"] is None, "nothing is sent to its makers"


class Doubled(FrozenBackbone):
    def traceable(self, classifier: Classifier, images: Tensor) -> Tensor:
        return 2 * self.run(classifier, images)


class Odd(FrozenBackbone):
    def traceable(self, classifier: Classifier, images: Tensor) -> Tensor:
        raise ValueError("odd layer")


@pytest.mark.parametrize(
    ("part", "why"),
    [(Doubled(), "computes other outputs of this network"), (Odd(), "cannot run this network: odd layer")],
)
def test_a_network_that_openvino_does_not_compute_is_refused(module: ClassifierModule, part: Any, why: str) -> None:
    function, classifier = OpenVINOPass(part, "32-true"), fuse_conv_bn(module.classifier)
    with torch.inference_mode(), pytest.raises(UserError, match=f"{why}.*; or set finetune.engine=torch"):
        function(classifier, IMAGES)


def test_a_process_that_ends_is_one_line(module: ClassifierModule) -> None:
    function, classifier = OpenVINOPass(FrozenBackbone(), "32-true"), fuse_conv_bn(module.classifier)
    with torch.inference_mode():
        function(classifier, IMAGES)
        function._process.process.kill()
        function._process.process.wait()
        with pytest.raises(UserError, match=r"finetune\.engine=openvino cannot run this network: it ended"):
            function(classifier, IMAGES)


def test_precisions_that_openvino_lacks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sports_lightning.inference.frozen_pass.cpu_has_bfloat16", lambda: False)
    for precision in ("64-true", "bf16-mixed"):
        with pytest.raises(UserError, match=f"cannot compute in {precision} here"):
            OpenVINOPass(FrozenBackbone(), precision)


def choose(module: ClassifierModule, cache: Path, engine: str = "auto", images: int = 5000, **more: Any) -> PassChoice:
    settings = {"precision": "auto", "of_steps": STEPS, "accelerator": "cpu"} | more
    return choose_pass(engine, module=module, images=images, cache_dir=cache, **settings)


@pytest.mark.parametrize(
    ("has_bfloat16", "rates", "expected"),
    [
        (True, {"32-true": 1, "bf16-mixed": 1.5, "openvino bf16-mixed": 4}, FrozenPass("openvino", "bf16-mixed")),
        (True, {"32-true": 1, "bf16-mixed": 1.5, "openvino bf16-mixed": 1.7}, FrozenPass("torch", "bf16-mixed")),
        (False, {"32-true": 1, "openvino 32-true": 2}, FrozenPass("openvino", "32-true")),
        (False, {"32-true": 1, "openvino 32-true": 1.1}, FrozenPass("torch", "32-true")),
    ],
)
def test_the_clearly_fastest_is_chosen_once_per_machine(
    module: ClassifierModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    has_bfloat16: bool, rates: dict[str, float], expected: FrozenPass,
) -> None:  # fmt: skip
    tried: list[str] = []

    def rate(function: Callable[..., Tensor], classifier: Classifier, how: FrozenPass, images: Tensor) -> float:
        if how.engine == "torch":
            assert pass_rate(function, classifier, how, images) > 0
        tried.append(str(how))
        return rates[str(how)]

    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr("sports_lightning.inference.frozen_pass.cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(pass_choice, "pass_rate", rate)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    draws = torch.get_rng_state()
    chosen = choose(module, tmp_path / "cache")
    assert (chosen.how, chosen.images_per_second) == (expected, rates)
    assert choose(module, tmp_path / "cache") == chosen
    assert tried == list(rates) * 4, "one round to warm up and three that count"
    assert torch.equal(torch.get_rng_state(), draws), "later draws do not depend on a trial"
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_candidate_that_fails_is_left_out(
    module: ClassifierModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module.frozen = Odd()
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    with caplog.at_level("INFO"):
        chosen = choose(module, tmp_path / "cache")
    assert chosen.how == FrozenPass()
    assert chosen.images_per_second["openvino 32-true"] == 0
    assert "odd layer" in caplog.text


def test_rules_come_before_a_trial(module: ClassifierModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_choice, "_trial", lambda *_: pytest.fail("a trial"))
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr("sports_lightning.inference.frozen_pass.cpu_has_bfloat16", lambda: False)
    with monkeypatch.context() as without:
        without.setattr(pass_choice, "find_spec", lambda _: None)
        assert "OpenVINO is not installed" in choose(module, tmp_path).why
    few = choose(module, tmp_path, images=1999)
    assert few.how == FrozenPass("torch", "32-true"), "a trial takes longer than such a pass"
    assert choose(module, tmp_path, engine="torch").how == FrozenPass("torch", "32-true")
    assert choose(module, tmp_path, engine="openvino", images=9).how == FrozenPass("openvino", "32-true")
    for name in ("64-true", "bf16-true", "bf16-mixed"):  # in which OpenVINO does not compute here
        of_steps = PrecisionChoice(name, "requested", {})
        assert choose(module, tmp_path, precision=name, of_steps=of_steps).how == FrozenPass("torch", name)
    half = PrecisionChoice("bf16-mixed", "requested", {})
    assert choose(module, tmp_path, "torch", precision="bf16-mixed", of_steps=half).how.precision == "bf16-mixed"
    with pytest.raises(UserError, match=r"finetune\.engine=openvino runs on a CPU"):
        choose(module, tmp_path, engine="openvino", accelerator="cuda")
    with monkeypatch.context() as distributed:
        distributed.setenv("TORCHELASTIC_RUN_ID", "1")
        distributed.setenv("WORLD_SIZE", "2")
        assert choose(module, tmp_path).how == FrozenPass("torch", "32-true")
        distributed.setenv(pass_choice.FROZEN_PASS, "openvino bf16-mixed")
        assert choose(module, tmp_path).how == FrozenPass("openvino", "bf16-mixed")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"finetune.engine=openvino needs openvino: pip install -e '.\[openvino\]'"):
        choose(module, tmp_path, engine="openvino")


@pytest.mark.slow
def test_a_run_and_its_resume_by_openvino(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPORTS_LIGHTNING_CACHE", str(tmp_path / "cache"))
    settings = [
        *FAST, f"data.root={few}", "model=timm", "model.name=test_efficientnet", "model.pretrained=false", "logger=csv",
        "finetune=head", "augment=none", "trainer.max_epochs=2", "test=false",
    ]  # fmt: skip
    metrics = {}
    for engine in ("torch", "openvino"):
        run_command("train", *settings, f"finetune.engine={engine}", f"hydra.run.dir={tmp_path / engine}")
        metrics[engine] = json.loads((tmp_path / engine / "metrics.json").read_text())["val"]
    assert metrics["openvino"]["loss"] == pytest.approx(metrics["torch"]["loss"], rel=1e-3)
    used = json.loads((tmp_path / "openvino/run.json").read_text())["frozen_pass"]
    assert (used["engine"], used["precision"]) == ("openvino", "32-true")
    checkpoint = tmp_path / "openvino/checkpoints/best.ckpt"
    neighbours = find_training_images(load_classifier(checkpoint), str(checkpoint))
    assert isinstance(neighbours, TrainingNeighbours), "by the features of OpenVINO"

    (tmp_path / "openvino/metrics.json").unlink()  # as if killed before the end
    cached = set((tmp_path / "cache/features").iterdir())
    run_command("train", f"resume={tmp_path / 'openvino'}")
    assert json.loads((tmp_path / "openvino/run.json").read_text())["frozen_pass"]["engine"] == "openvino"
    assert set((tmp_path / "cache/features").iterdir()) == cached


@pytest.mark.slow
def test_a_resumed_run_has_the_frozen_part_s_precision(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the cache, another trial would have another outcome."""
    asked: list[FrozenPass] = []
    real = fitting.use_cached_features

    def use(part: Any, classifier: Any, data: Any, cfg: Any, how: FrozenPass) -> None:
        asked.append(how)
        real(part, classifier, data, cfg, how)

    half = FrozenPass(precision="bf16-mixed")
    monkeypatch.setattr(fitting, "use_cached_features", use)
    choices = iter([PassChoice(half, "tried", {})])
    monkeypatch.setattr(auto_values, "choose_pass", lambda *_: next(choices))
    monkeypatch.setenv("SPORTS_LIGHTNING_CACHE", str(tmp_path / "cache"))
    settings = [
        *FAST, f"data.root={few}", "model=timm", "model.name=test_efficientnet", "model.pretrained=false", "logger=csv",
        "finetune=head", "augment=none", "trainer.max_epochs=2", "trainer.precision=auto", "test=false",
    ]  # fmt: skip
    run_command("train", *settings, f"hydra.run.dir={tmp_path / 'run'}")
    assert json.loads((tmp_path / "run/run.json").read_text())["frozen_pass"]["precision"] == "bf16-mixed"
    (tmp_path / "run/metrics.json").unlink()  # as if killed before the end
    run_command("train", f"resume={tmp_path / 'run'}")
    assert asked == [half, half]
