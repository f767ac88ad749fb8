"""An interrupted run goes on as if nothing had been: the same weights, tables and metrics, to the last bit."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import Command, command
from conftest import FAST, InProcess, assert_error_line, wait_for
from outcome import outcome
from sports_lightning.data.sampler import EpochSampler
from sports_lightning.errors import WriteFailed
from sports_lightning.runs.resume import lock_run_folder
from sports_lightning.storage.files import sync_to_disk, write_bytes

# Everything that has a state or draws: dropout, augmentation, mixup, an average of the weights, data workers.
SETTINGS = [
    *FAST, "model.image_size=32", "logger=csv", "augment=strong", "+model.arguments.drop_rate=0.2",
    "callbacks=[default,ema]",
    "callbacks.last.every_n_steps=2", "data.num_workers=2", "data.audit=false", "trainer.max_epochs=4",
    "trainer.limit_train_batches=7", "trainer.limit_val_batches=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(few: Path) -> list[str]:
    return [*SETTINGS, f"data.root={few}"]


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What comes out of a run that is left alone."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    arguments = [sys.executable, "-m", "sports_lightning.train", *settings, "hydra.run.dir=run"]
    # For real: the commands that are compared with it are forked from one process, and share its hashes of strings.
    subprocess.run(arguments, cwd=cwd, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True, capture_output=True)
    return outcome(cwd / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_run_goes_on(
    settings: list[str], undisturbed: dict[str, bytes], tmp_path: Path, number: signal.Signals
) -> None:
    process = Command("train", *settings, "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run/checkpoints/last.ckpt", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    (said,) = [line for line in errors.splitlines() if line.startswith("interrupted by")]
    assert said == f"interrupted by {number.name}; to go on: {said.partition('to go on: ')[2]}"
    assert not (tmp_path / "run/metrics.json").exists()

    (tmp_path / "elsewhere").mkdir()
    again = said.rpartition(" ")[2]
    command("train", again, cwd=tmp_path / "elsewhere")
    assert outcome(tmp_path / "run") == undisturbed
    finished = command("train", again, cwd=tmp_path, check=False)
    assert finished.returncode == 1
    assert "holds a finished run" in finished.stderr


@pytest.mark.parametrize(
    "more",
    [
        ["finetune=head", "refit=1e-3", "data.balanced_sampling=true"],
        ["finetune=last_stages", "augment.fixed_augmentations=2", "augment.mixup=0", "augment.cutmix=0", "refit=1e-3"],
        ["finetune=gradual", "optimizer=sgd"],
        ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=3", "data.balanced_sampling=true"],
    ],
    ids=lambda more: more[0],
)
def test_whatever_is_trained_goes_on(settings: list[str], tmp_path: Path, more: list[str]) -> None:
    model = ["model=timm", "model.name=test_resnet", "model.pretrained=false"]
    settings = [*settings, *model, "test=false", "trainer.max_epochs=3", *more]
    command("train", *settings, "hydra.run.dir=undisturbed", cwd=tmp_path)
    process = Command("train", *settings, "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run/metrics.csv", process)  # in the midst of the second epoch
    process.terminate()
    process.communicate(timeout=120)
    command("train", "resume=run", cwd=tmp_path)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


def test_killed_at_random_moments(settings: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    draws = random.Random(1)
    for kill in range(4):
        process = Command("train", *settings, "hydra.run.dir=run", "resume=auto", cwd=tmp_path)
        if kill:  # the first one before anything is saved, perhaps
            wait_for(tmp_path / "run/checkpoints/last.ckpt", process)
        time.sleep(draws.uniform(0, 6))
        process.kill()
        process.communicate()
    if not (tmp_path / "run/metrics.json").exists():
        command("train", *settings, "hydra.run.dir=run", "resume=auto", cwd=tmp_path)
    assert outcome(tmp_path / "run") == undisturbed


@pytest.mark.parametrize(("devices", "strategy"), [(2, "fsdp"), (3, "auto")])
def test_devices_stop_together_and_go_on(settings: list[str], tmp_path: Path, devices: int, strategy: str) -> None:
    settings = [*settings, f"trainer.devices={devices}", "trainer.max_epochs=3", f"trainer.strategy={strategy}"]
    settings.append(f"data.batch_size={16 * devices}")
    if strategy == "fsdp":  # which does not go with an average of the weights
        settings.remove("callbacks=[default,ema]")
    command("train", *settings, "hydra.run.dir=undisturbed", cwd=tmp_path)
    process = Command("train", *settings, "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run/checkpoints/last.ckpt", process)
    process.terminate()  # the first process alone is told
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "last digit" not in command("train", "resume=run", cwd=tmp_path).stdout
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


def test_nothing_is_left_running_where_the_first_of_two_processes_is_killed(
    settings: list[str], tmp_path: Path
) -> None:
    arguments = [*settings, "trainer.devices=2", "data.num_workers=1", f"hydra.run.dir={tmp_path}/run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sports_lightning.train", *arguments],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "run/checkpoints/last.ckpt", process)
    process.kill()
    process.communicate(timeout=120)  # until the last of them that could print is gone
    assert not subprocess.run(["pgrep", "-f", f"hydra.run.dir={tmp_path}"], capture_output=True).stdout


def test_auto_finds_the_run_with_these_settings(settings: list[str], tmp_path: Path) -> None:
    process = Command("train", *settings, "hydra.run.dir=outputs/train/first", cwd=tmp_path)
    wait_for(tmp_path / "outputs/train/first/checkpoints/last.ckpt", process)
    process.send_signal(signal.SIGSTOP)  # it is there for as long as we need it
    busy = command("train", "resume=outputs/train/first", cwd=tmp_path, check=False)
    assert "another process is writing into" in busy.stderr
    assert (tmp_path / "outputs/train/first/.hydra/config.yaml").exists(), "and its folder is left alone"
    process.kill()
    process.communicate()
    other = command("train", *settings, "resume=auto", "seed=1", "trainer.max_epochs=1", "test=false", cwd=tmp_path)
    assert "first" not in other.stdout, "other settings are another run"
    same = command("train", *settings, "resume=auto", cwd=tmp_path)
    assert same.stdout.strip().splitlines()[-1] == str(tmp_path / "outputs/train/first")
    assert len(list((tmp_path / "outputs/train").iterdir())) == 2


def test_what_has_changed_meanwhile_is_refused(in_process: InProcess, settings: list[str], tmp_path: Path) -> None:
    shutil.copytree(settings[-1].removeprefix("data.root="), tmp_path / "data")
    own = [*settings[:-1], "data=folder", "data.root=data"]
    process = Command("train", *own, "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run/checkpoints/last.ckpt", process)
    process.terminate()
    process.communicate(timeout=120)
    config = tmp_path / "run/.hydra/config.yaml"
    before = config.read_text()
    config.write_text(before.replace("seed: 0", "seed: 7"))
    assert_error_line(in_process("train", "resume=run"), "other settings")
    config.write_text(before)
    for arguments in (own, [*own, "resume=auto", "seed=7"]):
        assert_error_line(in_process("train", *arguments, "hydra.run.dir=run"), "holds an interrupted run")
        assert config.read_text() == before, "still as it was"
    image = tmp_path / "data/train/tennis/001.jpg"
    shutil.copy(tmp_path / "data/train/tennis/002.jpg", image)
    assert_error_line(in_process("train", "resume=run"), "data.train")
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(b"torn")
    assert_error_line(in_process("train", "resume=run"), "last.ckpt is not a checkpoint")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["resume=nowhere"], ["resume=nowhere is not a run folder"]),
        (["resume=nowhere", "seed=1"], ["leave out seed=1"]),
        (["hydra.run.dir=done"], ["done holds a finished run", "hydra.run.dir=FOLDER"]),
    ],
)
def test_what_cannot_go_on(in_process: InProcess, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done/metrics.json").write_text("{}")
    assert_error_line(in_process("train", *arguments), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["done"]


def test_a_second_signal_ends_the_process_at_once() -> None:
    script = """
import os, signal
from sports_lightning.runs.signals import deferred, listen, received
listen()
with deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    print(received(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still there", flush=True)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "15\n")


def test_a_run_folder_has_one_writer_that_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for left in ("metrics.csv.123.partial", "checkpoints/last.ckpt.123.partial", "somebody's.partial"):
        (tmp_path / left).touch()
    lock_run_folder(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.partial")] == ["somebody's.partial"]
    script = f"from pathlib import Path; from sports_lightning.runs.resume import claim; claim(Path({str(tmp_path)!r}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "another process is writing" in result.stderr


def test_the_sampler_begins_in_the_midst_of_one_epoch_only() -> None:
    whole, rest = EpochSampler(10, seed=3), EpochSampler(10, seed=3, epoch=2, skip=4)
    whole.set_epoch(2)
    assert list(rest) == list(whole)[4:]
    rest.set_epoch(2)
    assert list(rest) == list(whole)[4:], "Lightning sets it again"
    rest.set_epoch(3)
    assert len(list(rest)) == 10


def test_a_file_that_cannot_be_written_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "file", b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteFailed, match="file: No space left on device"):
        write_bytes(tmp_path / "file", b"after")
    assert (tmp_path / "file").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing half-written"


def test_processes_that_write_one_file_at_once_leave_one_of_their_contents(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from sports_lightning.runs.layout import write_bytes\n"
    script += "for _ in range(300): write_bytes(Path('file'), sys.argv[1].encode() * 5000)"
    writers = [subprocess.Popen([sys.executable, "-c", script, letter], cwd=tmp_path) for letter in "ab"]
    assert [writer.wait(timeout=100) for writer in writers] == [0, 0]
    assert (tmp_path / "file").read_bytes() in (b"a" * 5000, b"b" * 5000)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        done.append(("on the disk", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        sync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append(("named", target.name))
        replace(source, target)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.replace", note_replace)
    write_bytes(tmp_path / "file", b"content")
    assert done == [("on the disk", f"file.{os.getpid()}.partial"), ("named", "file"), ("on the disk", tmp_path.name)]
    done.clear()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inner").write_text("content")
    sync_to_disk(tmp_path)
    assert {name for _, name in done} == {"file", "folder", "inner", tmp_path.name, tmp_path.parent.name}
