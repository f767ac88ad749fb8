"""What a run prints: one line per epoch, and progress bars only on a terminal."""

import io
import logging
import os
import runpy
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from commands import call_as_command
from conftest import assert_error_line, composed
from sports_lightning.inference.predictor import build_inference_trainer
from sports_lightning.runs.console import STDOUT, lost_output, outlasting, shows_progress_bars
from sports_lightning.storage.files import read_csv
from sports_lightning.train.callbacks import epoch_line
from sports_lightning.train.trainer import build_trainer

ROW = {"epoch": 1, "train/loss": 1.25, "train/acc": 0.5, "images_per_second": 187.4, "seconds": 12.34}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("more", "epochs", "left", "expected"),
    [
        (
            {"val/loss": 1.5, "val/acc": 0.25},
            10,
            3725.4,
            "epoch 2/10: train loss 1.2500 acc 0.5000, val loss 1.5000 acc 0.2500, 187 img/s, 12.3 s, 1:02:05 left",
        ),
        ({}, 10, 0.0, "epoch 2/10: train loss 1.2500 acc 0.5000, 187 img/s, 12.3 s, 0:00:00 left"),
        ({}, -1, None, "epoch 2: train loss 1.2500 acc 0.5000, 187 img/s, 12.3 s"),
    ],
)
def test_an_epoch_is_one_line(more: dict[str, float], epochs: int, left: float | None, expected: str) -> None:
    assert epoch_line({**ROW, **more}, epochs, left) == expected


def test_each_epoch_is_printed_and_logged(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    for text in (printed, (folder / "train.log").read_text(encoding="utf-8")):
        lines = [line for line in text.splitlines() if line.startswith("epoch ")]
        assert [line.partition(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
        for line, row in zip(lines, read_csv(folder / "metrics.csv"), strict=True):
            assert f"val loss {float(row['val/loss']):.4f} acc {float(row['val/acc']):.4f}" in line
        assert lines[-1].endswith("0:00:00 left")


@pytest.mark.parametrize(("output", "has_bar"), [(io.StringIO(), False), (Terminal(), True)])
def test_bars_are_drawn_on_a_terminal_only(
    output: io.StringIO, has_bar: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", output)
    cfg = composed(tmp_path, "trainer.accelerator=cpu", "trainer.precision=32-true")
    requested: list[Any] = [[], [RichProgressBar()], [TQDMProgressBar()]]
    trainers = [build_trainer(cfg.trainer, "auto", callbacks, []) for callbacks in requested]
    for trainer in [*trainers, build_inference_trainer(cfg.inference)]:
        bars = [callback for callback in trainer.callbacks if isinstance(callback, ProgressBar)]  # type: ignore[attr-defined]
        assert bool(bars) == has_bar


def test_log_lines_go_to_the_current_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich replaces it while it draws a bar, so that lines appear above the bar."""
    handler = logging.StreamHandler(STDOUT)
    monkeypatch.setattr("sys.stdout", current := io.StringIO())
    handler.emit(logging.makeLogRecord({"msg": "a line"}))
    assert current.getvalue() == "a line\n"


def test_an_output_that_is_lost_takes_everything_that_follows() -> None:
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as pipe:
        output = outlasting(pipe)
        print("read", file=output, flush=True)
        assert os.read(reader, 100) == b"read\n"
        os.close(reader)
        for _ in range(2):
            print("not read", file=output, flush=True)
        assert lost_output(output) is None  # `| head` is no error
        assert os.fstat(writer).st_rdev == os.stat(os.devnull).st_rdev


def test_without_output_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert not shows_progress_bars()
    with outlasting(None) as output:
        print("nowhere", file=output, flush=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["--version"], ["--cfg", "job"], ["--help"]])
def test_what_only_prints_fails_on_a_full_disk(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        with open("/dev/full", "w", encoding="utf-8") as full, redirect_stdout(full):
            runpy.run_module("sports_lightning.compare", run_name="__main__", alter_sys=True)

    monkeypatch.setattr("sys.argv", ["compare.py", *arguments])
    result = call_as_command(command)
    assert_error_line(result, "can't write the standard output: No space left on device")
