"""Where a training ends, the checkpoints it keeps, and how another run continues it."""

import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging

from commands import run_command, try_command
from conftest import FAST, assert_error_line, composed
from interruption import signal_at_step
from outcome import outcome
from sports_lightning.data.dataset_index import DatasetIndex, Split
from sports_lightning.errors import UserError
from sports_lightning.inference.training_features import _trains_on_few
from sports_lightning.runs.checkpoint_files import save_checkpoint
from sports_lightning.runs.continuation import continued_checkpoint
from sports_lightning.storage.files import read_csv
from sports_lightning.train.best_checkpoint import FurtherCheckpoints
from sports_lightning.train.last_checkpoint import LastCheckpoint, ResumePoint, check_not_over
from sports_lightning.train.module import ClassifierModule, _epochs
from sports_lightning.train.results import evaluated_images
from sports_lightning.train.trainer import build_callbacks

QUICK = [
    *FAST, "logger=csv", "model.image_size=32", "data.num_workers=0", "inference.num_workers=0", "data.audit=false",
    "test=false", "trainer.limit_train_batches=3", "trainer.limit_val_batches=2",
]  # fmt: skip
LOSS = ["callbacks.best.monitor=val/loss"]
CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
METRICS = {
    "epoch": torch.tensor(4),
    "step": torch.tensor(50),
    "val/acc": torch.tensor(0.5),
    "val/loss": torch.tensor(2),
}


def checkpoints(tmp_path: Path, *overrides: str) -> dict[str, ModelCheckpoint]:
    """{file name for METRICS: callback} of the checkpoints that a run keeps."""
    callbacks = build_callbacks(composed(tmp_path, *overrides))
    found = [callback for callback in callbacks.all if isinstance(callback, ModelCheckpoint)]
    assert callbacks.best is found[0]
    assert Path(callbacks.best.format_checkpoint_name(dict(METRICS))) == tmp_path / "checkpoints/best.ckpt"
    assert callbacks.best.save_top_k == 1
    assert len({callback.state_key for callback in found}) == len(found)
    return {callback.format_checkpoint_name(dict(METRICS)): callback for callback in found[1:]}


@pytest.mark.parametrize(
    ("overrides", "name", "count"),
    [
        (["callbacks.best.save_top_k=3"], "checkpoints/epoch=04-val_acc=0.5000.ckpt", 3),
        (["callbacks.best.save_top_k=-1", *LOSS], "checkpoints/epoch=04-val_loss=2.0000.ckpt", -1),
        (["callbacks.best.filename='{epoch:02d}-{val/acc:.3f}'"], "checkpoints/epoch=04-val_acc=0.500.ckpt", 1),
        (["callbacks.best.filename=null"], "checkpoints/epoch=4-step=50.ckpt", 1),
        (["callbacks.best.filename=model"], "checkpoints/model.ckpt", 1),
        (["callbacks.best.dirpath=elsewhere"], "elsewhere/epoch=04-val_acc=0.5000.ckpt", 1),
        (
            [f"+callbacks.x={{_target_: {CHECKPOINT}, monitor: val/acc, filename: 'x{{val/acc}}'}}"],
            "checkpoints/xval_acc=0.5.ckpt",
            1,
        ),
    ],
)  # fmt: skip
def test_other_checkpoints_are_kept_next_to_the_best(
    overrides: list[str], name: str, count: int, tmp_path: Path
) -> None:
    ((path, callback),) = checkpoints(tmp_path, *overrides).items()
    assert Path(path) == tmp_path / name or path == str(Path(name).absolute())
    assert callback.save_top_k == count
    assert build_callbacks(composed(tmp_path, *overrides)).further == max(count, 0)
    assert callback._enable_version_counter, "none is overwritten"
    assert isinstance(build_callbacks(composed(tmp_path, *overrides)).all[-1], LastCheckpoint), "it stores their state"


@pytest.mark.parametrize("overrides", [[], ["callbacks.best.save_top_k=0"], LOSS])
def test_by_default_only_the_best_checkpoint_is_kept(overrides: list[str], tmp_path: Path) -> None:
    assert checkpoints(tmp_path, *overrides) == {}


def test_a_file_that_a_killed_run_has_just_written_is_replaced(tmp_path: Path) -> None:
    callbacks = build_callbacks(composed(tmp_path, "callbacks.best.save_top_k=3"))
    further = callbacks.all[callbacks.all.index(callbacks.best) + 1]
    assert isinstance(further, FurtherCheckpoints)
    trainer: Any = SimpleNamespace(
        is_global_zero=True, global_step=50, checkpoint_callbacks=[callbacks.best, further, callbacks.last],
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
    )  # fmt: skip
    path = further.format_checkpoint_name(dict(METRICS))
    assert not further.file_exists(path, trainer)
    own = {callbacks.last.state_key: {"folder": callbacks.last.folder}}
    for checkpoint, counts in (
        ({"global_step": 50, "callbacks": own}, False),
        ({"global_step": 50}, False),  # weights only
        ({"global_step": 49, "callbacks": own}, True),
        ({"global_step": 50, "callbacks": {callbacks.last.state_key: {"folder": "/another/run"}}}, True),
    ):
        save_checkpoint(checkpoint, Path(path))
        assert further.file_exists(path, trainer) is counts
    save_checkpoint({"global_step": 50, "callbacks": own}, Path(path))
    further.best_k_models[path] = torch.tensor(0.5)
    assert further.file_exists(path, trainer), "kept by a callback"


@pytest.mark.slow
def test_the_last_weights_are_validated_and_the_best_are_in_best_ckpt(few: Path, tmp_path: Path) -> None:
    settings = ["trainer.max_steps=7", "trainer.max_epochs=9", "callbacks.best.save_top_k=2"]
    settings += ["callbacks.best.monitor=val/loss", "callbacks.best.filename='{epoch}-{val/loss:.6f}'"]
    run_command("train", *QUICK, f"data.root={few}", *settings, "hydra.run.dir=run")
    losses = [float(row["val/loss"]) for row in read_csv(tmp_path / "run/metrics.csv")]
    assert len(losses) == 3, "the last one after a single step of its epoch"
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == losses.index(min(losses))
    kept = sorted(range(3), key=losses.__getitem__)[:2]
    names = {"best.ckpt", "last.ckpt", "MODEL_CARD.md", *(f"epoch={i}-val_loss={losses[i]:.6f}.ckpt" for i in kept)}
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == names


@pytest.mark.slow
def test_a_run_of_limited_steps_resumes_exactly_between_epochs_and_before_a_validation(
    few: Path, tmp_path: Path
) -> None:
    settings = [*QUICK, f"data.root={few}", "trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=5"]
    settings += ["trainer.max_epochs=-1", "trainer.max_steps=7", "callbacks.last.every_n_steps=1"]
    run_command("train", *settings, "hydra.run.dir=undisturbed")
    with signal_at_step(signal.SIGTERM, 3):
        assert try_command("train", *settings, "hydra.run.dir=run").status == 128 + signal.SIGTERM
    with signal_at_step(signal.SIGTERM, 5):
        assert try_command("train", "resume=run").status == 128 + signal.SIGTERM
    run_command("train", "resume=run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("epochs", "steps", "length"), [(10, -1, 10), (10, 13, 1.3), (1, 500, 1), (-1, 5, 0.5), (None, 20, 2), (-1, -1, 1)]
)
def test_the_schedule_is_as_long_as_the_run(epochs: int | None, steps: int, length: float) -> None:
    trainer: Any = SimpleNamespace(max_epochs=epochs, max_steps=steps)
    assert _epochs(trainer, steps_per_epoch=10) == pytest.approx(length)


def test_lightning_has_the_private_attributes_that_the_validation_schedule_uses() -> None:
    loop = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False).fit_loop
    assert loop._iteration_based_training() is False
    assert loop._can_stop_early in (True, False)
    assert loop._data_fetcher is None
    assert callable(loop.epoch_loop._should_check_val_fx)
    assert hasattr(loop, "min_epochs")
    assert hasattr(loop.epoch_loop, "min_steps")


@pytest.mark.parametrize(("overrides", "expected"), [(["debug=fast"], True), (["debug=overfit"], False), ([], False)])
def test_a_short_run_does_not_cache_features_of_all_images(
    overrides: list[str], expected: bool, tmp_path: Path
) -> None:
    cfg = composed(tmp_path, "experiment=head", "data.batch_size=10", *overrides)
    assert _trains_on_few(cfg, images=500) is expected


def test_images_at_equal_distances_are_of_all_classes() -> None:
    split = Split([f"{i}.jpg" for i in range(12)], [i // 4 for i in range(12)], [f"d{i}" for i in range(12)])
    few = split.spread(4)
    assert few.labels.tolist() == [0, 1, 1, 2]
    assert list(few.paths) == ["0.jpg", "4.jpg", "7.jpg", "11.jpg"]
    assert list(few.digests) == ["d0", "d4", "d7", "d11"]
    assert len(split.spread(100)) == 12


@pytest.mark.parametrize(("limit", "count"), [(None, 12), (2, 6), (0.5, 6), (0.1, 3), (9, 12)])
def test_a_limited_evaluation_counts_batches_of_the_training(limit: float | None, count: int) -> None:
    split = Split([f"{i}.jpg" for i in range(12)], [i // 6 for i in range(12)], [f"d{i}" for i in range(12)])
    index = DatasetIndex(Path(), ["a", "b"], {"train": split, "test": split})
    settings = {"data": {"batch_size": 3}, "inference": {"batch_size": 1}, "trainer": {"limit_test_batches": limit}}
    recorded = evaluated_images(index, OmegaConf.create(settings)).provenance()
    assert (recorded["train"]["count"], recorded["test"]["count"]) == (12, count)


@pytest.mark.slow
def test_a_continued_run_has_the_weights_of_a_longer_one(few: Path, tmp_path: Path) -> None:
    settings = [*QUICK, f"data.root={few}", "scheduler=constant"]
    run_command("train", *settings, "trainer.max_epochs=1", "hydra.run.dir=first")
    before = outcome(tmp_path / "first")
    run_command("train", *settings, "trainer.max_epochs=3", "hydra.run.dir=second", "ckpt_path=first/last.ckpt")
    run_command("train", *settings, "trainer.max_epochs=3", "hydra.run.dir=whole")
    assert read_csv(tmp_path / "second/metrics.csv") == read_csv(tmp_path / "whole/metrics.csv")[1:]
    second, whole = outcome(tmp_path / "second"), outcome(tmp_path / "whole")
    weights = [name for name in whole if name.startswith("last ")]
    assert weights
    assert all(second[name] == whole[name] for name in weights)
    assert outcome(tmp_path / "first") == before, "unchanged"


@pytest.mark.parametrize(("max_epochs", "max_steps", "said"), [
    (5, -1, "for 5 epochs, and trainer.max_epochs=5"),
    (-1, 100, "for 100 steps, and trainer.max_steps=100"),
    (None, 101, None),
    (6, -1, None),
])  # fmt: skip
def test_a_continued_run_needs_epochs_and_steps_that_are_left(
    max_epochs: int | None, max_steps: int, said: str | None
) -> None:
    point = ResumePoint(Path("last.ckpt"), {}, "32-true", "32-true", 8, epochs=5, steps=100, continues=True)
    trainer = OmegaConf.create({"max_epochs": max_epochs, "max_steps": max_steps})
    check_not_over(replace(point, continues=False), trainer)
    with pytest.raises(UserError, match=said) if said else nullcontext():
        check_not_over(point, trainer)


def test_the_steps_of_an_epoch_and_the_reading_of_images_stay_the_same(tmp_path: Path) -> None:
    cfg = composed(tmp_path, "ckpt_path=run")
    for file in (".hydra/config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / "run" / file).parent.mkdir(parents=True)
        OmegaConf.save(cfg, tmp_path / "run" / file)
    assert continued_checkpoint(cfg) == tmp_path / "run/checkpoints/last.ckpt"
    changes: dict[str, Any] = {
        "trainer.accumulate_grad_batches": 2,
        "trainer.limit_train_batches": 3,
        "data.value_range": [0, 4095],
        "model.crop_mode": "squash",
    }
    for key, value in changes.items():
        with pytest.raises(UserError, match=f"trained with {key}="):
            continued_checkpoint(OmegaConf.merge(cfg, OmegaConf.from_dotlist([f"{key}={value}"])))  # type: ignore[arg-type]


@pytest.mark.parametrize(("callbacks", "weights"), [([], "trained"), ([WeightAveraging()], "average")])
def test_a_continued_run_without_averaging_starts_from_the_trained_weights(callbacks: list[Any], weights: str) -> None:
    module: Any = SimpleNamespace(continues=True, trainer=SimpleNamespace(callbacks=callbacks))
    checkpoint: dict[str, Any] = {"state_dict": "average", "current_model_state": "trained", "train_figures": {}}
    ClassifierModule.on_load_checkpoint(module, checkpoint)
    assert checkpoint["state_dict"] == weights


@pytest.mark.slow
def test_what_cannot_be_continued_is_one_line(trained: tuple[Path, str], few: Path) -> None:
    run, last = trained[0], trained[0] / "checkpoints/last.ckpt"
    settings = [*FAST, f"data.root={few}", "trainer.max_epochs=3"]
    assert_error_line(try_command("train", *settings, f"ckpt_path={run}", "optimizer=sgd"), "adamw, not sgd")
    assert_error_line(try_command("train", *settings, f"ckpt_path={run}/best.ckpt"), "model.weights=FILE")
    assert_error_line(try_command("train", *settings, "ckpt_path=nowhere"), "last.ckpt of a run")
    result = try_command("train", f"resume={run}", "trainer.max_epochs=5")
    assert_error_line(result, f"ckpt_path={last} trainer.max_epochs=5", f"data.root={few}")
    assert_error_line(try_command("train", f"resume={run}"), f"ckpt_path={last} trainer.max_epochs=NUMBER")
