"""What the tests share: the sample data set, commands as subprocesses and in this process, one trained run."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from commands import Command, kill_all
from sports_lightning import CONF_DIR
from sports_lightning.cli import app as cli
from sports_lightning.data.sample.dataset import draw_sample

InProcess = Callable[..., tuple[int, str]]

FAST = ["data=sample", "model.image_size=64", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]

# How long an example takes is no matter of a test's: on a busy machine any may take longer.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Whatever hangs and is ended with SIGABRT says where it was.
os.environ["PYTHONFAULTHANDLER"] = "1"

# Several tests run at once: a thread each is faster than all of them on all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a run keeps for the next one stays out of the home folder of whoever runs the tests.
_cache = tempfile.TemporaryDirectory()
os.environ["SPORTS_LIGHTNING_CACHE"] = _cache.name

# Nobody is logged in to W&B, whoever runs the tests.
os.environ["NETRC"] = os.devnull
for name in ("WANDB_MODE", "WANDB_API_KEY"):
    os.environ.pop(name, None)


def wait_for(path: Path, process: "Command | subprocess.Popen[str]") -> None:
    """Wait until a process has written a file; it must not end before."""
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:  # where do it and its children stand?
            subprocess.run(["pkill", "-ABRT", "-P", str(process.pid)], check=False)
            process.send_signal(signal.SIGABRT)
            raise AssertionError(process.communicate(timeout=60))
        time.sleep(0.02)


def composed(tmp_path: Path, *overrides: str) -> DictConfig:
    """`conf/train.yaml` with these overrides, as a command in the run folder `tmp_path` has it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    cfg.hydra.runtime.output_dir = str(tmp_path)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return cfg


def assert_error_line(result: tuple[int, str], *parts: str) -> None:
    """The command has failed, and has said why in one line with these parts."""
    status, printed = result
    assert status == 1
    assert printed.count("\n") == 1, printed
    assert printed.startswith("error: ")
    for part in parts:
        assert part in printed


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a command leaves in this process, such as a service of wandb's in its environment, ends with its test.

    So do its signal handlers: a process that is forked from this one would take SIGTERM for something to think about.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with patch.dict(os.environ):
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder for what all of pytest-xdist's processes use."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def sample(shared: Path) -> Path:
    """The sample data set, drawn once."""
    with FileLock(shared / "sample.lock"):
        draw_sample(shared / "data/sample")
    return shared / "data/sample"


@pytest.fixture(scope="session")
def few(sample: Path, shared: Path) -> Path:
    """24 / 5 / 5 images a class of the sample, for runs of which nobody asks how much they learn."""
    with FileLock(shared / "few.lock"):
        if not (shared / "few").exists():
            for split, count in {"train": 24, "valid": 5, "test": 5}.items():
                for of_class in (sample / split).iterdir():
                    (folder := shared / "few" / split / of_class.name).mkdir(parents=True)
                    for image in sorted(of_class.iterdir())[:count]:
                        (folder / image.name).hardlink_to(image)
    return shared / "few"


@pytest.fixture(scope="session")
def trained(sample: Path, shared: Path) -> tuple[Path, str]:
    """The run folder of a short training by command line, and what the command printed."""
    arguments = [*FAST, f"data.root={sample}", "trainer.max_epochs=3", "hydra.run.dir=trained"]
    with FileLock(shared / "trained.lock"):
        if not (shared / "trained.log").exists():
            python = [sys.executable, "-m", "sports_lightning.train"]
            run = subprocess.run([*python, *arguments], cwd=shared, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stdout + run.stderr
            assert "leaked" not in run.stderr, "what libraries complain of as Python ends"
            (shared / "trained.log").write_text(run.stdout)
    printed = (shared / "trained.log").read_text()
    return Path(printed.strip().splitlines()[-1]), printed


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    """Run a command in this process, in an empty folder: (exit status, what it printed on stderr)."""

    def run(name: str, *arguments: str) -> tuple[int, str]:
        module = __import__(f"sports_lightning.{name}.__main__", fromlist=[name])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setenv("PYTHONSAFEPATH", "")  # which the command may set, and which goes back to what it was
        GlobalHydra.instance().clear()
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_status:
            raise SystemExit(cli.main(module.COMMAND))
        return int(exit_status.value.code or 0), capsys.readouterr().err

    return run


def pytest_sessionfinish() -> None:
    kill_all()
