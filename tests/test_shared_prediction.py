"""Predictions that several processes share, that resume after a kill, and whose precision is chosen."""

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import run_command, try_command
from processes import torchrun
from sports_lightning.inference import devices, parts, precision
from sports_lightning.inference.parts import OutputParts, Part, PartWriter
from sports_lightning.inference.ranks import Ranks
from sports_lightning.predict import prediction
from sports_lightning.predict.prediction import _collect


@pytest.fixture
def run(trained: tuple[Path, str]) -> Path:
    """The folder of a trained run."""
    return trained[0]


@pytest.fixture
def photos(few: Path, tmp_path: Path) -> Path:
    """Eleven images, and a file that cannot be read as one."""
    folder = tmp_path / "photos"
    images = sorted((few / "train").rglob("*.jpg"))[:11]
    assert len(images) == 11
    folder.mkdir()
    for i, image in enumerate(images):
        shutil.copy(image, folder / f"{i:02d}.jpg")
    (folder / "04b.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Small parts; the result receives the names of the files that each forward pass over missing parts is for."""
    passes: list[list[str]] = []
    run_readable = prediction.run_readable

    def recorded(function: Any, classifier: Any, files: Any, inference: Any, receive: Callable[..., None]) -> None:
        passes.append([Path(path).name for path in files.paths])
        run_readable(function, classifier, files, inference, receive)

    monkeypatch.setattr(parts, "IMAGES", 3)
    monkeypatch.setattr(prediction, "run_readable", recorded)
    return passes


def predict(run: Path, photos: Path, folder: Path, *more: str) -> bytes:
    run_command("predict", f"ckpt_path={run}", str(photos), f"hydra.run.dir={folder}", "inference.batch_size=2", *more)
    return (folder / "predictions.csv").read_bytes()


@pytest.mark.slow
def test_a_killed_prediction_resumes_without_repeating_finished_parts(
    run: Path, photos: Path, tmp_path: Path, computed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = predict(run, photos, tmp_path / "whole", "save=[features]")
    save = OutputParts.save

    def fail_at_the_third(self: OutputParts, part: int, content: Part) -> None:
        if part == 2:
            raise RuntimeError("killed")
        save(self, part, content)

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(OutputParts, "save", fail_at_the_third)
        with pytest.raises(RuntimeError, match="killed"):
            predict(run, photos, killed, "save=[features]")
    assert len(list((killed / "parts").iterdir())) == 2
    assert not (killed / "predictions.csv").exists()
    computed.clear()
    result = run_command("predict", f"resume={killed}")
    assert result.stdout.splitlines()[-1] == str(killed)
    assert computed == [["05.jpg", "06.jpg", "07.jpg", "08.jpg", "09.jpg", "10.jpg"]]
    assert (killed / "predictions.csv").read_bytes() == wanted
    assert (killed / "predictions.npz").read_bytes() == (tmp_path / "whole/predictions.npz").read_bytes()
    assert not (killed / "parts").exists()
    again = try_command("predict", f"resume={killed}")
    assert again.status == 1
    assert "holds finished predictions" in again.stderr


@pytest.mark.slow
def test_parts_of_other_content_are_computed_again(
    run: Path, photos: Path, tmp_path: Path, computed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # keeps the parts
    folder = tmp_path / "run"
    wanted = predict(run, photos, folder)
    damaged, _, _, _ = sorted((folder / "parts").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-100])
    shutil.copy(photos / "00.jpg", photos / "10.jpg")
    computed.clear()
    changed = predict(run, photos, folder)
    assert computed == [["00.jpg", "01.jpg", "02.jpg", "08.jpg", "09.jpg", "10.jpg"]]
    assert changed.splitlines()[:-2] == wanted.splitlines()[:-2]
    assert changed != wanted
    computed.clear()
    predict(run, photos, folder, "inference.flip_tta=true")
    assert len(computed[0]) == 12, "other settings share nothing"


def test_batches_need_not_end_with_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "IMAGES", 4)
    store = OutputParts(tmp_path, [f"{i}.jpg" for i in range(10)], "key")
    writer = PartWriter(store, [0, 2], lambda path: f"no {path}")  # files 0 to 3, and 8 and 9
    outputs = torch.arange(6.0)[:, None]
    readable = torch.tensor([True, False, True, True, True, False])
    writer.receive(outputs[:3], readable[:3])
    writer.receive(outputs[3:], readable[3:])
    first, last = store.load(0), store.load(2)
    assert first is not None
    assert last is not None
    assert first.outputs.flatten().tolist() == [0, 1, 2, 3]
    assert first.problems == {1: "no 1.jpg"}
    assert last.outputs.flatten().tolist() == [4, 5]
    assert last.problems == {1: "no 9.jpg"}
    assert store.load(1) is None


def test_ranks_without_a_shared_disk_send_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "IMAGES", 2)
    stores = [OutputParts(tmp_path / str(rank), [f"{i}.jpg" for i in range(10)], "key") for rank in range(2)]
    for part in range(5):
        rows = torch.tensor([[2.0 * part], [2.0 * part + 1]])
        stores[part % 2].save(part, Part(rows, {1: "broken"} if part == 3 else {}))

    class Other(threading.Thread):
        result: Any = None

        def run(self) -> None:
            self.result = _collect(stores[1], 2, self.ranks)  # type: ignore[attr-defined]

    boards: list[queue.Queue[Any]] = [queue.Queue(), queue.Queue()]

    class Pair(Ranks):
        """Two ranks in two threads."""

        def gather(self, value: Any) -> list[Any]:
            boards[1 - self.rank].put(value)
            other = boards[self.rank].get(timeout=10)
            return [value, other] if self.rank == 0 else [other, value]

        def gather_on_first(self, value: Any) -> list[Any]:
            values = self.gather(value)
            return values if self.rank == 0 else []

    other = Other()
    other.ranks = Pair(1, 2)  # type: ignore[attr-defined]
    other.start()
    outputs, problems = _collect(stores[0], 2, Pair(0, 2))  # type: ignore[misc]
    other.join()
    assert outputs.flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert problems == {"7.jpg": "broken"}
    assert other.result is None


@pytest.mark.slow
def test_processes_of_torchrun_share_the_images(run: Path, photos: Path, tmp_path: Path) -> None:
    wanted = predict(run, photos, tmp_path / "alone", "save=[probabilities,features]")
    # Parts of three images, so that both processes have some.
    program = (
        "import sys; from sports_lightning.inference import parts; parts.IMAGES = 3; "
        "from sports_lightning.cli.app import main; from sports_lightning.predict.__main__ import COMMAND; "
        "sys.exit(main(COMMAND))"
    )
    (tmp_path / "predict_in_parts.py").write_text(program)
    command = [*torchrun(), "predict_in_parts"]
    settings = [f"ckpt_path={run}", str(photos), "save=[probabilities,features]", "inference.batch_size=2"]
    shared = tmp_path / "shared"
    result = subprocess.run(
        [*command, *settings, f"hydra.run.dir={shared}"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert result.stdout.splitlines()[-1] == str(shared)
    assert (shared / "predictions.csv").read_bytes() == wanted
    for name, array in np.load(tmp_path / "alone/predictions.npz").items():
        assert np.array_equal(array, np.load(shared / "predictions.npz")[name])


@pytest.mark.slow
def test_auto_precision_stays_in_float32_without_bfloat16(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    wanted = predict(run, photos, tmp_path / "stated")
    assert predict(run, photos, tmp_path / "auto", "inference.precision=auto") == wanted
    said = (tmp_path / "auto/predict.log").read_text()
    assert "inference.precision=auto: 32-true, since this CPU has no bfloat16 instructions" in said


@pytest.mark.slow
def test_auto_precision_reports_what_bfloat16_changes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "_CLEARLY_FASTER", 0.0)  # emulated bfloat16 is slower
    folder = tmp_path / "evaluation"
    run_command("evaluate", f"ckpt_path={run}", "split=val", "inference.precision=auto", f"hydra.run.dir={folder}")
    record = json.loads((folder / "run.json").read_text())["inference_precision"]
    assert record["precision"] == "bf16-mixed"
    assert 0 < record["difference"] < 0.1
    assert record["top1_changes"] >= 0
    assert set(record["images_per_second"]) == {"32-true", "bf16-mixed"}
    assert f"on {record['images']} images probabilities differ by at most" in record["why"]


@pytest.mark.parametrize("command", ["train", "audit", "serve"])
def test_auto_precision_of_other_commands_is_one_line(command: str) -> None:
    result = try_command(command, "inference.precision=auto")
    assert result.status == 1
    assert "inference.precision" in result.stderr
