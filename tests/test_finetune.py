"""Training from Python leaves a run folder that the commands understand, and the caller's process as it was."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sports_lightning as sl
from sports_lightning.errors import UserError
from sports_lightning.runs import signals
from sports_lightning.runs.resume import check_resumable

FAST = [
    "model.image_size=32",
    "+model.arguments.widths=[4,8,8,8]",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.enable_progress_bar=false",
    "trainer.max_epochs=1",
    "data.batch_size=8",
    "data.audit=false",
]


class Noise:
    """Images of noise, whose brightness is their class."""

    classes = ("dark", "light")

    def __init__(self, count: int) -> None:
        self.labels = [i % 2 for i in range(count)]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        draws = np.random.default_rng(index)
        return draws.integers(0, 120, (40, 40, 3), dtype=np.uint8) + np.uint8(120 * self.labels[index])


@pytest.fixture(autouse=True)
def in_a_notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not in the process of a command, as a test before may have left it."""
    monkeypatch.setattr(signals, "_is_command", False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_finetune_trains_on_a_users_dataset(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in signals._SIGNALS]
    finetune = sl.finetune  # the imports draw numbers
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    run = finetune("scratch_cnn", Noise(24), Noise(8), Noise(8), overrides=FAST, run_dir="run")
    assert [signal.getsignal(number) for number in signals._SIGNALS] == handlers
    assert torch.get_rng_state().equal(torch_state)
    assert random.getstate() == python_state
    assert not torch.are_deterministic_algorithms_enabled()
    assert run.folder == tmp_path / "run"
    assert set(run.metrics) == {"val", "test", "train"}
    assert run.config.data.root == str(tmp_path / "run/data")
    assert len(run.epochs) == 1
    assert run.best["epoch"] == 0
    predictions = run.predictions
    classifier = run.load("cpu")
    predicted = classifier.predict([Noise(8).image(i) for i in (0, 2, 4, 6)])  # the order of the folder
    assert [p.probability for p in predicted] == predictions["probability"].tolist()[:4]
    assert classifier.evaluate(Noise(8)).metrics["acc"] == run.metrics["test"]["acc"]
    assert sl.compare([run]).runs[0].name == "run"
    with pytest.raises(UserError, match="finished run"):
        sl.finetune("scratch_cnn", Noise(24), Noise(8), run_dir="run")


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"overrides": [*FAST, "trainer.max_epochs=3"]}
    whole = sl.finetune("scratch_cnn", Noise(24), Noise(8), run_dir="whole", **settings)
    from sports_lightning.train.module import ClassifierModule

    step, steps = ClassifierModule.training_step, iter(range(100))

    def interrupted_step(self: ClassifierModule, *arguments: Any) -> Any:
        if next(steps) == 4:  # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(ClassifierModule, "training_step", interrupted_step)
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="run_dir="):
            sl.finetune("scratch_cnn", Noise(24), Noise(8), run_dir="parts", **settings)
        assert signal.getsignal(signal.SIGINT) is handler
    assert check_resumable("parts", False) == tmp_path / "parts"
    with pytest.raises(UserError, match="other settings"):
        sl.finetune("scratch_cnn", Noise(24), Noise(8), run_dir="parts", overrides=FAST)
    parts = sl.finetune("scratch_cnn", Noise(24), Noise(8), run_dir="parts", **settings)
    assert parts.metrics == whole.metrics


def test_wrong_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="as val"):
        sl.finetune("scratch_cnn", Noise(4), run_dir="run")
    with pytest.raises(UserError, match="no folder valid/"):
        sl.finetune("scratch_cnn", tmp_path, run_dir="run")
    with pytest.raises(UserError, match="run_dir instead"):
        sl.finetune("scratch_cnn", Noise(4), Noise(4), overrides=["hydra.run.dir=x"], run_dir="run")
