"""Training from Python writes a run folder that the commands read, and does not change the caller's process."""

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from matplotlib import rcParams
from PIL import Image

import sports_lightning as sl
from image_lists import list_index
from sports_lightning import CONF_DIR
from sports_lightning.api.dataset_folder import check_splits, write_splits
from sports_lightning.api.global_state import global_state_restored
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
    """Undo the state of a command's process that an earlier test may have left."""
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
    assert "PL_GLOBAL_SEED" not in os.environ
    assert rcParams["text.parse_math"]
    assert run.folder == tmp_path / "run"
    assert set(run.metrics) == {"val", "test", "train"}
    assert run.config.data.root == str(tmp_path / "run/data")
    assert len(run.epochs) == 1
    assert run.config.trainer.default_root_dir == str(run.folder)
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
    with pytest.raises(UserError, match="holds no class folders"):
        sl.finetune("scratch_cnn", tmp_path, run_dir="run")
    with pytest.raises(UserError, match="pass run_dir"):
        sl.finetune("scratch_cnn", Noise(4), Noise(4), overrides=["hydra.run.dir=x"], run_dir="run")


class Files(Noise):
    """Images in files whose names have no suffix of an image."""

    def __init__(self, count: int, folder: Path) -> None:
        super().__init__(count)
        self.folder = folder
        folder.mkdir()
        for index in range(count):
            Image.fromarray(super().image(index)).save(folder / f"{index}.data", format="png")

    def image(self, index: int) -> Any:
        return self.folder / f"{index}.data"


class Broken(Noise):
    """The last image cannot be written."""

    def image(self, index: int) -> np.ndarray:
        return super().image(index)[:, :, 0] if index == len(self) - 1 else super().image(index)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Config and clock of each call of fit, which fails instead of training."""
    from sports_lightning.api import finetuning

    calls: list[Any] = []

    def fit(cfg: Any, index: Any, *_: Any, started: float) -> None:
        calls.append((cfg, index, started))
        raise InterruptedError

    monkeypatch.setattr(finetuning, "fit", fit)
    return calls


def attempt(*images: Any, overrides: tuple[str, ...] = ()) -> None:
    with pytest.raises(InterruptedError):
        sl.finetune("scratch_cnn", *images, overrides=[*FAST, *overrides], run_dir="run")


def test_a_failed_call_leaves_no_data_to_the_next(tmp_path: Path, fitted: list[Any]) -> None:
    with pytest.raises(UserError, match="uint8 RGB"):
        sl.finetune("scratch_cnn", Broken(4), Noise(4), run_dir="run")
    assert [path.name for path in (tmp_path / "run/data").iterdir()] == [".written_by_finetune"]
    attempt(Noise(6), Noise(4), Noise(2))
    attempt(Noise(8), Noise(4))
    assert [len(index.splits["train"]) for _, index, _ in fitted] == [6, 8]
    assert [cfg.test for cfg, *_ in fitted] == [True, False]
    assert not (tmp_path / "run/data/test").exists()


def test_a_folder_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    with pytest.raises(UserError, match="not written by finetune"):
        sl.finetune("scratch_cnn", Noise(4), Noise(4), run_dir=".")
    assert (tmp_path / "data/train").is_dir()


def test_a_run_resumes_with_the_same_images_only(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write_splits({"train": Noise(4), "val": tmp_path / "images"}, tmp_path / "data")
    check_splits({"train": Noise(4), "val": "images"}, tmp_path / "data")
    for split, other in (("train", Noise(6)), ("train", tmp_path), ("val", tmp_path), ("val", Noise(2))):
        with pytest.raises(UserError, match=f"passed as {split}"):
            check_splits({split: other}, tmp_path / "data")
    (tmp_path / "images").rmdir()
    write_splits({"train": Noise(4)}, tmp_path / "data")  # also in place of a link to nothing


class Digested(Noise):
    """A source that knows the digests of its images."""

    def __init__(self, count: int, version: str) -> None:
        super().__init__(count)
        self.version = version

    def digest(self, index: int) -> str:
        return f"{self.version}-{index}"


def test_a_run_does_not_resume_with_images_of_other_digests(tmp_path: Path) -> None:
    write_splits({"train": Digested(4, "a")}, tmp_path / "data")
    check_splits({"train": Digested(4, "a")}, tmp_path / "data")
    with pytest.raises(UserError, match="passed as train"):
        check_splits({"train": Digested(4, "b")}, tmp_path / "data")


def test_overrides_of_the_user_come_last(fitted: list[Any]) -> None:
    attempt(Noise(4), Noise(4), Noise(4), overrides=("test=false",))
    assert not fitted[0][0].test
    for override in ("data.root=x", "data=sample", "hydra.run.dir=x", "resume=x"):
        with pytest.raises(UserError, match="instead of the override"):
            sl.finetune("scratch_cnn", Noise(4), Noise(4), overrides=[override])


def test_settings_are_checked_before_images_are_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_epochs"):
        sl.finetune("scratch_cnn", Noise(4), Noise(4), overrides=["trainer.max_epochs=x"], run_dir="run")
    assert not (tmp_path / "run").exists()


def test_finetune_works_within_a_program_of_hydra_and_refuses_in_its_own_words(fitted: list[Any]) -> None:
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        attempt(Noise(4), Noise(4))
        assert hydra.compose("train").seed == 0, "the program's own"
        for override, said in (("trainr.max_epochs=3", "Did you mean"), ("optimizer=zzz", "optimizer/zzz")):
            with pytest.raises(UserError, match=said):
                sl.finetune("scratch_cnn", Noise(4), Noise(4), overrides=[override])


def test_a_run_folder_among_the_given_images_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    with pytest.raises(UserError, match="whose folders are the classes"):
        sl.finetune("scratch_cnn", tmp_path / "train", tmp_path / "valid", run_dir=tmp_path / "train/a/run")
    assert not (tmp_path / "train/a/run").exists()


def test_an_open_run_of_the_caller_is_not_used(fitted: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=object()))
    with pytest.raises(UserError, match=r"wandb\.finish"):
        sl.finetune("scratch_cnn", Noise(4), Noise(4), overrides=["logger=wandb"])


def test_the_time_of_a_run_starts_with_its_call(fitted: list[Any]) -> None:
    before = time.monotonic()
    attempt(Noise(4), Noise(4))
    assert before <= fitted[0][2] <= time.monotonic()


def test_files_of_any_name_are_used(tmp_path: Path) -> None:
    write_splits({"train": Files(4, tmp_path / "files")}, tmp_path / "data")
    assert len(list_index(tmp_path / "data", ["train"]).splits["train"]) == 4


@pytest.mark.parametrize("image", [b"bytes", torch.zeros(8, 8, dtype=torch.uint8), torch.tensor(1), np.zeros((8, 8))])
def test_images_of_a_source_that_are_none_are_refused(tmp_path: Path, image: Any) -> None:
    source = Noise(4)
    source.image = lambda _: image  # type: ignore[method-assign]
    with pytest.raises(UserError, match="an image of a source must be"):
        write_splits({"train": source}, tmp_path / "data")


@pytest.mark.parametrize("classes", [("a", "desktop.ini"), ("a", "a"), ("a", "../b"), ("a", ".b"), (0, 1)])
def test_class_names_that_would_lose_images_are_refused(tmp_path: Path, classes: tuple[str, str]) -> None:
    source = Noise(4)
    source.classes = classes
    with pytest.raises(UserError, match="class"):
        write_splits({"train": source}, tmp_path / "data")


def test_global_state_is_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_lightning import seed_everything

    os.environ["PL_SEED_WORKERS"] = "before"
    state = torch.get_rng_state()
    gpus = [0]
    for function, value in {"is_available": True, "get_rng_state_all": [], "set_rng_state_all": None}.items():
        monkeypatch.setattr(torch.cuda, function, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: gpus[-1])
    monkeypatch.setattr(torch.cuda, "set_device", gpus.append)
    deterministic: Any = torch.utils.deterministic  # type: ignore[attr-defined]
    fill = deterministic.fill_uninitialized_memory

    @global_state_restored()
    def train() -> None:
        seed_everything(7, workers=True, verbose=False)
        deterministic.fill_uninitialized_memory = not fill
        torch.cuda.set_device(1)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train()
    assert torch.get_rng_state().equal(state)
    assert deterministic.fill_uninitialized_memory == fill
    assert gpus == [0, 1, 0]
    assert os.environ["PL_SEED_WORKERS"] == "before"
    assert "PL_GLOBAL_SEED" not in os.environ
