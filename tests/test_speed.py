"""The choice of the precision, and the benchmark command. Nothing here asserts a time."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf, open_dict

from commands import run_command, try_command
from conftest import FAST, assert_error_line, composed
from frozen_modules import frozen_module
from image_lists import list_index
from sports_lightning.data.dataset_index import Split
from sports_lightning.errors import UserError
from sports_lightning.inference import devices
from sports_lightning.inference.devices import require_compiler
from sports_lightning.inference.predictor import compute_logits
from sports_lightning.models.classifier import build_classifier
from sports_lightning.split.dataset import open_dataset
from sports_lightning.train import precision as precision_module
from sports_lightning.train.build import build
from sports_lightning.train.module import ClassifierModule
from sports_lightning.train.precision import choose_precision, step_rate, training_step


@pytest.fixture
def module(few: Path, tmp_path: Path) -> ClassifierModule:
    cfg = composed(tmp_path, *FAST, f"data.root={few}", "model=scratch_cnn", f"data.cache_dir={tmp_path}")
    return build(cfg, open_dataset(cfg.data, ["train", "val"]))[0]


def test_a_requested_precision_is_used(
    module: ClassifierModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Hydra reads trainer.precision=32, and so on.
    for precision, name in (("64-true", "64-true"), (32, "32-true"), ("32", "32-true"), (16, "16-mixed"), (None, None)):
        assert choose_precision(precision, "cpu", module, tmp_path).precision == name
    for has_bfloat16, why in ((True, "requested"), (False, "only emulates bfloat16, many times slower")):
        monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda has=has_bfloat16: has)
        chosen = choose_precision("bf16", "cpu", module, tmp_path)
        assert chosen.precision == "bf16-mixed"
        assert chosen.why.endswith(why)
    assert not list(tmp_path.glob("precision/*"))


def test_rules_come_before_a_trial(module: ClassifierModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    assert choose_precision("auto", "cpu", module, tmp_path).precision == "32-true"
    assert choose_precision("auto", "mps", module, tmp_path).precision == "32-true"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert choose_precision("auto", "cuda", module, tmp_path).precision == "bf16-mixed"
    assert not list(tmp_path.glob("precision/*"))


@pytest.mark.parametrize(("precision", "expected"), [("bf16-mixed", "high"), ("32-true", "highest")])
def test_with_bfloat16_a_gpu_multiplies_in_tf32_also_in_a_resumed_run(
    module: ClassifierModule, tmp_path: Path, precision: str, expected: str
) -> None:
    try:
        assert choose_precision(precision, "cuda", module, tmp_path).precision == precision
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("precision", "name"), [("32", "32-true"), ("null", None)])
def test_a_run_takes_all_of_lightning_s_names(few: Path, tmp_path: Path, precision: str, name: str | None) -> None:
    quick = ["debug=fast", f"data.root={few}", "model=scratch_cnn", "data.num_workers=0", "data.audit=false"]
    run_command("train", *quick, "logger=csv", "test=false", f"trainer.precision={precision}", "hydra.run.dir=run")
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"]["precision"] == name


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("precision", ["auto", "32-true"])
def test_a_device_that_is_not_there_is_one_line(trained: tuple[Path, str], few: Path, precision: str) -> None:
    settings = ["inference.accelerator=cuda", f"inference.precision={precision}"]
    for command, more in (("evaluate", []), ("predict", [f"input={few / 'test'}"])):
        result = try_command(command, f"ckpt_path={trained[0]}", *settings, *more)
        assert_error_line(result, "inference.accelerator=cuda: there is no such device here")


@pytest.mark.parametrize(("half", "expected"), [(3.0, "bf16-mixed"), (1.1, "32-true"), (0.5, "32-true")])
def test_a_trial_decides_for_bfloat16_only_where_it_is_clearly_faster(
    module: ClassifierModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: float, expected: str
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    tried = []

    def rate(tried_module: ClassifierModule, precision: str, images: torch.Tensor, *rest: object) -> float:
        tried.append(precision)
        assert images.shape[2:] == (64, 64)
        assert step_rate(tried_module, precision, images, *rest) > 0  # type: ignore[arg-type]
        return half if precision == "bf16-mixed" else 1.0

    monkeypatch.setattr(precision_module, "step_rate", rate)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    draws = torch.get_rng_state()
    chosen = choose_precision("auto", "cpu", module, tmp_path)
    assert chosen.precision == expected
    assert chosen.images_per_second == {"32-true": 1.0, "bf16-mixed": half}
    assert choose_precision("auto", "cpu", module, tmp_path) == chosen
    assert tried == ["32-true", "bf16-mixed"] * 3, "in turn, and only once"
    assert torch.equal(torch.get_rng_state(), draws), "later draws do not depend on a trial"
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(
    ("finetune", "half", "expected"),
    [("last_stages", 3.0, "bf16-mixed"), ("last_stages", 1.0, "32-true"), ("head", 3.0, "32-true")],
)
def test_the_steps_on_cached_outputs_are_tried(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetune: str, half: float, expected: str
) -> None:
    module = frozen_module(few, tmp_path, finetune)
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    tried: list[tuple[str, int]] = []

    def step(trial: ClassifierModule, precision: str, inputs: torch.Tensor, *rest: Any) -> float:
        assert step_rate(trial, precision, inputs, *rest) > 0
        assert inputs.dtype == torch.float32, "outputs of the frozen stages"
        tried.append((precision, len(inputs)))
        return half if precision == "bf16-mixed" else 1.0

    monkeypatch.setattr(precision_module, "step_rate", step)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    chosen = choose_precision("auto", "cpu", module, tmp_path / "cache", 24)
    assert chosen.precision == expected
    assert set(tried) == ({("32-true", 24), ("bf16-mixed", 24)} if finetune == "last_stages" else set())
    assert choose_precision("auto", "cpu", module, tmp_path / "cache", 24) == chosen
    assert len(tried) == 3 * len(set(tried)), "once per machine and model"
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_bfloat16_changes_a_step_by_rounding_only(module: ClassifierModule) -> None:
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    gradients: list[list[torch.Tensor]] = []

    def catch(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients.append([p.grad.flatten().clone() for group in optimizer.param_groups for p in group["params"]])

    for precision in ("32-true", "bf16-mixed"):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
        optimizer.register_step_pre_hook(catch)
        training_step(module, optimizer, precision, images, torch.tensor([0, 1, 2, 3]))
    full, half = (torch.cat(parts) for parts in gradients)
    assert not torch.equal(full, half)
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.98


@pytest.mark.parametrize("precision", ["32-true", 32, "32", None])
def test_every_name_of_float32_is_float32(module: ClassifierModule, precision: Any) -> None:
    """`data.batch_size=auto` measures the memory of these steps."""
    seen = []
    module.classifier.net.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    training_step(module, optimizer, precision, images, torch.tensor([0, 1, 2, 3]))
    assert seen == [False]


@pytest.mark.slow
def test_benchmark_prints_and_writes_a_row_for_each_number_format(few: Path, tmp_path: Path) -> None:
    small = [*FAST, f"data.root={few}", "data.num_workers=0", "steps=2", "trainer.precision=32"]
    result = run_command("benchmark", *small)
    folder = Path(result.stdout.strip().splitlines()[-1])
    with (folder / "benchmark.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["precision"] == "32-true"
    rates = {name: float(value) for name, value in row.items() if name != "precision"}
    # scratch_cnn at 64 pixels; one multiply-add per weight and position in the forward pass, two in the backward pass
    assert rates["gflops"] == pytest.approx(0.125, rel=0.05)
    assert all(rates[name] > 0 for name in ("model", "pipeline", "end_to_end", "utilisation", "memory_gib"))
    assert 0 <= rates["waiting"] < 1
    assert "img/s" in result.stdout
    assert not (folder / "metrics.json").exists()
    failed = try_command("benchmark", *small, "steps=9999")
    assert failed.status == 1
    assert "steps=9999" in failed.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_passes_give_the_same_logits(few: Path, tmp_path: Path) -> None:
    cfg = composed(
        tmp_path, f"data.root={few}", "model=scratch_cnn", "model.image_size=32", "inference.accelerator=cpu",
        "inference.batch_size=8", "inference.num_workers=0",
    )  # fmt: skip
    split = list_index(few, ["val"]).splits["val"]
    split = Split(split.paths[:20], split.labels[:20])
    classifier = build_classifier(cfg.model, ["a", "b", "c"], few).eval()
    plain = compute_logits(classifier, few, split, cfg.inference)
    cfg.inference.compile = True
    torch.testing.assert_close(compute_logits(classifier, few, split, cfg.inference), plain)


def test_compiling_without_a_compiler_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no-such-compiler"):
        require_compiler()


@pytest.mark.slow
def test_benchmark_times_the_steps_that_the_training_would_make(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sports_lightning.benchmark import throughput as speed

    small = [
        *FAST,
        f"data.root={few}",
        f"data.cache_dir={tmp_path}",
        "data.num_workers=0",
        "augment.progressive_sizes=[[0,48]]",
        "optimizer=muon",
    ]
    cfg = composed(tmp_path, *small)
    seen: list[tuple[torch.Size, str, str]] = []
    real = training_step

    def step(module: ClassifierModule, optimizer: object, precision: str, images: torch.Tensor, *rest: object) -> None:
        seen.append((images.shape, precision, type(optimizer).__name__))
        real(module, optimizer, precision, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(speed, "training_step", step)
    monkeypatch.setattr(precision_module, "training_step", step)
    with open_dict(cfg):
        cfg.steps = 2
    (row,) = speed.measure(
        OmegaConf.merge(cfg, {"trainer": {"precision": "32-true"}}), open_dataset(cfg.data, ["train", "val"])
    )  # type: ignore[arg-type]
    *timed, (_, _, counted) = seen
    assert set(timed) == {(torch.Size([16, 3, 48, 48]), "32-true", "Muon")}
    assert counted == "SGD", "the products of Muon are no part of the network's"
    assert row.precision == "32-true"


def test_all_ranks_train_in_the_same_precision(
    module: ClassifierModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(_: object) -> dict[str, float]:
        raise AssertionError("no rank decides on its own")

    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(precision_module, "_trial", trial)
    with monkeypatch.context() as started_by_lightning:
        started_by_lightning.setenv(precision_module.PRECISION, "bf16-mixed")
        assert choose_precision("auto", "cpu", module, tmp_path).precision == "bf16-mixed"
        assert choose_precision("32-true", "cpu", module, tmp_path).precision == "32-true"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    chosen = choose_precision("auto", "cpu", module, tmp_path)
    assert chosen.precision == "32-true"
    assert "torchrun or srun" in chosen.why
