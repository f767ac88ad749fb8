"""An interrupted run resumes with bit-identical weights, tables and metrics."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from interruption import signal_at_step
from outcome import outcome
from processes import Process, Result, locked_by_another_process, run_process
from sports_lightning.data.sampler import EpochSampler
from sports_lightning.errors import RunFolderLocked, UserError, WriteFailed
from sports_lightning.runs.resume import LAST_CHECKPOINT, RESUMES, lock_run_folder
from sports_lightning.storage.files import sync_to_disk, write_bytes
from sports_lightning.train import __main__ as training
from sports_lightning.train import decorations
from sports_lightning.train.__main__ import checkpoint_to_resume

# All components with a state or random draws: dropout, augmentation, mixup, weight averaging, data workers.
SETTINGS = [
    *FAST, "model.image_size=32", "logger=csv", "augment=strong", "+model.arguments.drop_rate=0.2",
    "callbacks=[default,ema]",
    "callbacks.last.every_n_steps=2", "data.num_workers=2", "data.audit=false", "trainer.max_epochs=4",
    "trainer.limit_train_batches=7", "trainer.limit_val_batches=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(few: Path) -> list[str]:
    return [*SETTINGS, f"data.root={few}"]


@pytest.fixture(scope="session")
def undisturbed(few: Path, shared: Path) -> dict[str, bytes]:
    """The outcome of a run that nothing interrupts."""
    with FileLock(shared / "undisturbed.lock"):
        if not (shared / "undisturbed").exists():
            run_command("train", *SETTINGS, f"data.root={few}", "hydra.run.dir=undisturbed.partial", cwd=shared)
            (shared / "undisturbed.partial").rename(shared / "undisturbed")
    return outcome(shared / "undisturbed")


def interrupt(*arguments: str, number: signal.Signals = signal.SIGTERM, step: int = 9) -> Result:
    """Run `train` in this process and send it a signal after `step` steps; 7 make an epoch."""
    with signal_at_step(number, step):
        result = try_command("train", *arguments)
    assert result.status == 128 + number, result.stderr
    return result


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))]
)
def test_an_interrupted_run_saves_and_names_the_command_that_resumes_it(
    settings: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    result = interrupt(*settings, "hydra.run.dir=run", number=number, step=3)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("interrupted by")]
    assert line.startswith(f"interrupted by {number.name}; ")
    assert line.endswith(f" resume={tmp_path}/run")
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
def test_a_resumed_run_has_the_outcome_of_an_undisturbed_one(
    settings: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    interrupt(*settings, "hydra.run.dir=run")
    (tmp_path / "elsewhere").mkdir()
    run_command("train", f"resume={tmp_path}/run", cwd=tmp_path / "elsewhere")
    assert outcome(tmp_path / "run") == undisturbed
    assert_error_line(try_command("train", "resume=run"), "holds a finished run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["finetune=head", "refit=1e-3", "data.balanced_sampling=true"],
        ["finetune=last_stages", "augment.fixed_augmentations=2", "augment.mixup=0", "augment.cutmix=0", "refit=1e-3"],
        ["finetune=gradual", "optimizer=sgd"],
        [
            "trainer.accumulate_grad_batches=2",
            "trainer.val_check_interval=3",
            "data.balanced_sampling=true",
            "optimizer=muon",
        ],
        ["trainer.precision=bf16-mixed"],  # emulated on a CPU without bfloat16
    ],
    ids=lambda more: more[0],
)
def test_every_kind_of_training_resumes_with_the_same_outcome(
    settings: list[str], tmp_path: Path, more: list[str]
) -> None:
    model = ["model=timm", "model.name=test_resnet", "model.pretrained=false"]
    settings = [*settings, *model, "test=false", "trainer.max_epochs=3", *more]
    run_command("train", *settings, "hydra.run.dir=undisturbed")
    interrupt(*settings, "hydra.run.dir=run", step=6 if "accumulate" in more[0] else 9)  # in the second epoch
    run_command("train", "resume=run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_run_that_is_killed_several_times_has_the_outcome_of_an_undisturbed_one(
    settings: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    draws = random.Random(1)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    steps = []
    for _ in range(3):
        process = Process("train", *settings, "hydra.run.dir=run", "resume=auto", PYTHONHASHSEED="1")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process.wait_until(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > before)  # noqa: B023
        time.sleep(draws.uniform(0, 0.1))  # of the next steps, and perhaps within the next write
        assert process.poll() is None, "the run is alive"
        process.kill()
        process.wait()
        assert not (tmp_path / "run/metrics.json").exists(), "and unfinished"
        steps.append(torch.load(checkpoint, weights_only=True)["global_step"])
    assert steps == sorted(steps), "each process resumes from the checkpoint of the one before"
    assert 0 < steps[0] < steps[-1] < 28
    run_command("train", *settings, "hydra.run.dir=run", "resume=auto")
    assert outcome(tmp_path / "run") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "strategy"), [(2, "fsdp"), (3, "auto")])
def test_all_devices_stop_together_and_resume(settings: list[str], tmp_path: Path, devices: int, strategy: str) -> None:
    settings = [*settings, f"trainer.devices={devices}", "trainer.max_epochs=2", f"trainer.strategy={strategy}"]
    settings.append(f"data.batch_size={16 * devices}")
    if strategy == "fsdp":  # which cannot average weights
        settings.remove("callbacks=[default,ema]")
    run_process("train", *settings, "hydra.run.dir=undisturbed")
    process = Process("train", *settings, "hydra.run.dir=run")
    process.wait_for(tmp_path / "run/checkpoints/last.ckpt")
    process.terminate()  # only the first process gets the signal
    result = process.result()
    assert result.status == 143, result.stderr
    assert "last digit" not in run_process("train", "resume=run").stdout
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")


@pytest.mark.slow
def test_no_process_survives_the_first_of_two_that_is_killed(settings: list[str], tmp_path: Path) -> None:
    settings = [*settings, "trainer.devices=2", "data.num_workers=1", f"hydra.run.dir={tmp_path}/run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-m", "sports_lightning.train", *settings], **pipes) as process:  # type: ignore[call-overload]
        while not (tmp_path / "run/checkpoints/last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.kill()
        process.communicate(timeout=120)  # returns once the last process that could print has ended
    assert not subprocess.run(["pgrep", "-f", f"hydra.run.dir={tmp_path}"], capture_output=True).stdout


@pytest.mark.slow
def test_resume_auto_finds_the_interrupted_run_with_the_same_settings(settings: list[str], tmp_path: Path) -> None:
    settings = [*settings, "trainer.max_epochs=1", "test=false"]
    first = tmp_path / "outputs/train/first"
    interrupt(*settings, "hydra.run.dir=outputs/train/first", step=3)
    with locked_by_another_process(first):
        assert "another process" in try_command("train", "resume=outputs/train/first").stderr
    assert (first / ".hydra/config.yaml").exists(), "the folder is unchanged"
    other = run_command("train", *settings, "resume=auto", "seed=1")
    assert "first" not in other.stdout, "a run with other settings is another run"
    assert run_command("train", *settings, "resume=auto").last_line == str(first)
    assert len(list((tmp_path / "outputs/train").iterdir())) == 2


@pytest.mark.slow
def test_a_run_whose_settings_or_images_have_changed_is_not_resumed(settings: list[str], tmp_path: Path) -> None:
    shutil.copytree(settings[-1].removeprefix("data.root="), tmp_path / "data")
    own = [*settings[:-1], "data=folder", "data.root=data"]
    interrupt(*own, "hydra.run.dir=run", step=3)
    config = tmp_path / "run/.hydra/config.yaml"
    before = config.read_text()
    config.write_text(before.replace("seed: 0", "seed: 7"))
    assert_error_line(try_command("train", "resume=run"), "other settings")
    config.write_text(before)
    for arguments in (own, [*own, "resume=auto", "seed=7"]):
        assert_error_line(try_command("train", *arguments, "hydra.run.dir=run"), "holds an interrupted run")
        assert config.read_text() == before, "unchanged"
    image = tmp_path / "data/train/tennis/001.jpg"
    shutil.copy(tmp_path / "data/train/tennis/002.jpg", image)
    assert_error_line(try_command("train", "resume=run"), "data.train")
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(b"torn")
    assert_error_line(try_command("train", "resume=run"), "last.ckpt is not a checkpoint")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["resume=nowhere"], ["resume=nowhere is not a run"]),
        (["resume=nowhere", "seed=1"], ["leave out seed=1"]),
        (["hydra.run.dir=done"], ["done holds a finished run", "hydra.run.dir=FOLDER"]),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused(tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done/metrics.json").write_text("{}")
    assert_error_line(try_command("train", *arguments), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["done"]


@pytest.mark.slow
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


def test_a_run_folder_has_one_writer_that_removes_partial_files_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for left in ("metrics.csv.123.partial", "checkpoints/last.ckpt.123.partial", "somebody's.partial"):
        (tmp_path / left).touch()
    lock_run_folder(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.partial")] == ["somebody's.partial"]
    script = "from pathlib import Path; from sports_lightning.runs.resume import lock_run_folder"
    script += f"; lock_run_folder(Path({str(tmp_path)!r}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "another process" in result.stderr


def test_the_sampler_starts_within_one_epoch_only() -> None:
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


@pytest.mark.slow
def test_processes_that_write_one_file_at_once_leave_one_of_their_contents(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from sports_lightning.storage.files import write_bytes\n"
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


def test_a_rank_that_does_not_see_the_checkpoint_does_not_start_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = OmegaConf.create({"resume": str(tmp_path)})
    assert checkpoint_to_resume(cfg, tmp_path) is None, "the run was interrupted before its first checkpoint"
    monkeypatch.setenv(RESUMES, str(LAST_CHECKPOINT))
    with pytest.raises(UserError, match="shared disk"):
        checkpoint_to_resume(cfg, tmp_path)
    (tmp_path / LAST_CHECKPOINT).parent.mkdir()
    (tmp_path / LAST_CHECKPOINT).touch()
    assert checkpoint_to_resume(cfg, tmp_path) == tmp_path / LAST_CHECKPOINT


def test_only_the_first_rank_draws_what_a_finished_run_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(decorations, "complete_decorations", drawn.append)
    monkeypatch.setattr(training, "check_train", lambda cfg: None)
    (tmp_path / "metrics.json").touch()
    cfg = OmegaConf.create({"resume": str(tmp_path)})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        training.train(cfg, tmp_path)
    assert drawn == [tmp_path]


def test_two_processes_do_not_draw_into_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").touch()
    script = "from pathlib import Path; from sports_lightning.storage.locks import FileLock"
    script += f"; print(FileLock(Path({str(tmp_path / '.lock')!r})).acquire(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"True\n"
        with pytest.raises(RunFolderLocked):
            decorations.complete_decorations(tmp_path)
        other.communicate(b"\n")
