"""The environment of a process: users without an account, leftover variables, proxies, GPUs that are not used."""

import getpass
import io
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from commands import run_command
from conftest import FAST, composed
from sports_lightning.cli import process_setup
from sports_lightning.cli.error_messages import one_line
from sports_lightning.data.datamodule import build_loader
from sports_lightning.errors import UserError
from sports_lightning.inference import predictor
from sports_lightning.inference.devices import select_device
from sports_lightning.models.pretrained import check_reachable
from sports_lightning.runs.process import RANK_VARIABLES, RUN_FOLDER, remove_stray_ranks
from sports_lightning.runs.provenance import machine
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.train.resolved_config import resolve
from sports_lightning.train.trainer import training_device


def test_a_user_without_an_account_gets_a_name_and_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pwd = pytest.importorskip("pwd")

    def no_account(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", no_account)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    data = OmegaConf.create({"cache_dir": "~/.cache/sports_lightning"})
    assert resolve_cache_dir(data).absolute() == tmp_path / ".cache/sports_lightning", "from Python"
    process_setup.prepare_process()
    assert getpass.getuser() == "user"
    assert Path("~").expanduser() == tmp_path


def test_leftover_rank_variables_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.setenv(name, "3")
    remove_stray_ranks()
    assert not set(RANK_VARIABLES) & set(os.environ)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("RANK", "3")
    remove_stray_ranks()
    assert os.environ["RANK"] == "3", "torchrun has set it"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        ("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)", "/dev/shm"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is out of shared memory.", "--shm-size"),
        ("received 0 items of ancdata", "ulimit -n"),
        ("Too many open files. Communication with the workers is no longer possible.", "ulimit -n"),
    ],
)
def test_workers_without_shared_memory_are_one_line(error: str, parts: str) -> None:
    line = one_line(RuntimeError(error), "train")
    assert line is not None
    assert parts in line
    assert "data.num_workers=0" in line


def test_an_error_that_lightnings_cleanup_hides_is_reported() -> None:
    def fail(hidden: Exception) -> str | None:
        try:
            try:
                raise hidden
            except Exception:
                raise RuntimeError("Please call `iter(combined_loader)` first.")  # noqa: B904
        except RuntimeError as error:
            return one_line(error, "train")

    assert "No space left on device" in str(fail(OSError(28, "No space left on device")))
    assert fail(UserError("a line")) == "a line"


def test_relative_paths_start_from_the_users_folder_with_chdir(few: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(few)
    result = run_command("audit", "data=folder", "data.root=images", "hydra.job.chdir=true", "hydra.run.dir=run")
    assert result.last_line == str(tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"images", "run"}


def test_a_run_on_a_cpu_leaves_the_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("touches the GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("_lazy_init", "get_device_name", "current_device", "set_device"):
        monkeypatch.setattr(torch.cuda, name, fail)
    cfg = resolve(composed(tmp_path, *FAST), {})
    assert cfg.inference.accelerator == "cpu"
    assert resolve(composed(tmp_path, *FAST, "inference.accelerator=gpu"), {}).inference.accelerator == "gpu"
    select_device(training_device(cfg.trainer))
    predictor.build_inference_trainer(cfg.inference, progress=False)
    assert not build_loader([torch.zeros(1)], 1, 0, "cpu").pin_memory  # type: ignore[arg-type]
    assert build_loader([torch.zeros(1)], 1, 0, "cuda").pin_memory  # type: ignore[arg-type]
    assert machine(uses_gpus=False)["gpus"] == []


@pytest.mark.parametrize(("devices", "local_rank", "expected"), [([1], "0", 1), ([3, 1], "1", 1), (2, "1", 1)])
def test_evaluation_runs_on_the_gpu_of_the_training(
    devices: Any, local_rank: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: selected.append(device.index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: selected[-1])
    monkeypatch.setattr("pytorch_lightning.accelerators.CUDAAccelerator.is_available", lambda: True)
    monkeypatch.setattr(predictor.pl, "Trainer", lambda **arguments: arguments)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setenv(RUN_FOLDER, "run")  # Lightning has started this process
    trainer = OmegaConf.create({"accelerator": "gpu", "devices": devices, "num_nodes": 1})
    select_device(training_device(trainer))
    inference = OmegaConf.create({"accelerator": "gpu", "precision": "32-true", "compile": False})
    arguments: Any = predictor.build_inference_trainer(inference)
    assert arguments["devices"] == [expected]


@pytest.mark.parametrize(("value", "is_tuned"), [("0", False), ("1", True), (None, True)])
def test_the_allocator_can_be_left_alone(value: str | None, is_tuned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(process_setup, "_keep_freed_memory", lambda: calls.append(1))
    monkeypatch.delenv("SPORTS_LIGHTNING_MALLOPT", raising=False)
    if value is not None:
        monkeypatch.setenv("SPORTS_LIGHTNING_MALLOPT", value)
    process_setup._tune_c_libraries.__wrapped__()
    assert bool(calls) == is_tuned


def test_the_hub_is_asked_with_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client may trust other certificates than urllib does, behind a proxy for example."""

    class Session:
        def head(self, url: str, timeout: float) -> None:
            if "REFUSES" in os.environ:
                raise ConnectionError("failed") from ssl.SSLError("certificate verify failed")

    def fail(*_: object, **__: object) -> None:
        raise ssl.SSLError("urllib does not trust it")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    check_reachable("resnet50")
    monkeypatch.setenv("REFUSES", "1")
    with pytest.raises(UserError, match="certificate verify failed"):
        check_reachable("resnet50")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_the_user_keeps_an_existing_name_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "someone")
    monkeypatch.setenv("HOME", "/somewhere")
    process_setup.prepare_process()
    assert (os.environ["LOGNAME"], os.environ["HOME"]) == ("someone", "/somewhere")


@pytest.mark.parametrize(
    ("encoding", "chosen", "written"),
    [
        ("ascii", False, "0.1–0.2 │ ü".encode()),
        ("ascii", True, b"0.1\\u20130.2 \\u2502 \\xfc"),
        ("cp1252", False, b"0.1\x960.2 \\u2502 \xfc"),
    ],
)
def test_output_takes_any_character_in_any_locale(
    encoding: str, chosen: bool, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    if chosen:
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer := io.BytesIO(), encoding=encoding))
    process_setup._make_output_printable()
    print("0.1–0.2 │ ü", end="", flush=True)
    assert buffer.getvalue() == written
