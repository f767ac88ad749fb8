"""What the processes of a run prepare: once per machine, and on the device of each process."""

import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from sports_lightning.data import decoded_cache, file_hashes, source
from sports_lightning.data.datamodule import SportsDataModule
from sports_lightning.data.file_hashes import FileCheck, check_files
from sports_lightning.data.source import provide_data
from sports_lightning.inference import devices as inference_devices
from sports_lightning.train import trainer as trainer_module
from sports_lightning.train.trainer import training_device

PROCESSES = 3


def run_in_processes(function: Any, *arguments: Any) -> list[Any]:
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        return pool.starmap(function, [arguments] * PROCESSES, chunksize=1)


def test_processes_of_one_machine_read_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reads").mkdir()
    paths = [f"{i}.png" for i in range(4)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    read, now = file_hashes._read, time.time_ns

    def read_slowly(path: Path) -> FileCheck:
        time.sleep(0.1)
        (tmp_path / "reads" / f"{path.name} {now()}").touch()
        return read(path)

    monkeypatch.setattr(file_hashes, "_read", read_slowly)
    monkeypatch.setattr("time.time_ns", lambda: now() + 60 * 10**9)  # so that the files count as old enough
    results = run_in_processes(check_files, tmp_path, paths, tmp_path / "cache")
    assert results == [results[0]] * PROCESSES
    assert len(list((tmp_path / "reads").iterdir())) == len(paths)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["file_hashes.sqlite"]


def test_processes_of_one_machine_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(handle: str, root: Path) -> None:
        (tmp_path / f"download {time.time_ns()}").touch()
        time.sleep(0.3)
        root.mkdir()

    monkeypatch.setattr(source, "_download", download)
    data = OmegaConf.create({"root": str(tmp_path / "new" / "data"), "source": "a/b", "download": True})
    assert run_in_processes(provide_data, data) == [tmp_path / "new" / "data"] * PROCESSES
    assert len(list(tmp_path.glob("download *"))) == 1


def shared_folder(rank: int) -> Path:
    os.environ |= {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": str(rank)}
    return decoded_cache._ram()


def test_processes_of_one_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_cache, "_SHARED_MEMORY", tmp_path)
    monkeypatch.delenv("SPORTS_LIGHTNING_RAM", raising=False)
    (tmp_path / f".sports_lightning-{os.getuid()}-of-1").symlink_to(tmp_path / "of a killed run")
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        folders = pool.map(shared_folder, range(PROCESSES), chunksize=1)
        assert len(set(folders)) == 1
        assert len(list(tmp_path.iterdir())) == 2, "the folder and the link to it"


def test_containers_that_share_memory_do_not_share_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_cache, "_SHARED_MEMORY", tmp_path)
    monkeypatch.delenv("SPORTS_LIGHTNING_RAM", raising=False)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    links = []
    for variable, value in (
        ("TORCHELASTIC_RUN_ID", "x"),
        ("MASTER_PORT", "29501"),
        ("TORCHELASTIC_RESTART_COUNT", "1"),
    ):
        monkeypatch.setenv(variable, value)
        links.append(decoded_cache._link())
    assert len(set(links)) == 3
    (tmp_path / "another run").mkdir()
    links[-1].symlink_to(tmp_path / "another run")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        (folder,) = pool.map(shared_folder, [0])
        assert links[-1].readlink() == folder != tmp_path / "another run"


class FakeGpus:
    """Four GPUs, as Lightning's accelerator shows them."""

    is_available = staticmethod(lambda: True)
    auto_device_count = staticmethod(lambda: 4)
    parse_devices = staticmethod(lambda devices: list(range(devices)) if isinstance(devices, int) else devices)
    get_parallel_devices = staticmethod(lambda numbers: [torch.device("cuda", number) for number in numbers])


@pytest.mark.parametrize(
    ("devices", "local_rank", "launched", "expected"),
    [([2, 3], "1", True, 3), ("auto", "2", True, 2), ([1], None, False, 1), (2, "1", False, 0)],
)
def test_a_process_prepares_and_evaluates_on_the_gpu_that_it_trains_on(
    devices: Any, local_rank: str | None, launched: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module.AcceleratorRegistry, "get", lambda name: FakeGpus())
    for name, value in {"LOCAL_RANK": local_rank, "TORCHELASTIC_RUN_ID": "x" if launched else None}.items():
        if value:
            monkeypatch.setenv(name, value)
    settings = OmegaConf.create({"accelerator": "gpu", "devices": devices, "num_nodes": 1})
    device = training_device(settings)
    assert device == torch.device("cuda", expected)
    selected = []
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: selected[-1].index)
    monkeypatch.setattr(inference_devices, "device_type", lambda accelerator: "cuda")
    inference_devices.select_device(device)
    assert inference_devices.inference_devices("auto") == [expected]


def test_a_device_validates_in_batches_as_large_as_its_training_batches() -> None:
    data = SimpleNamespace(batch_size=1024)
    trained_on = SimpleNamespace(trainer=SimpleNamespace(world_size=8), data=data, val_set=[0])
    trained_on._num_workers, trained_on._device = lambda: 0, lambda: "cpu"
    assert SportsDataModule.val_dataloader(trained_on).batch_size == 128  # type: ignore[arg-type]
