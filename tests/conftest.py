"""Fixtures that tests share: images, a trained run, and an empty folder to run commands in."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Before torch is imported: several tests run at once, and one thread each is faster than all of them on all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if os.environ.get("SPORTS_LIGHTNING_HIDE_LINUX") == "1":
    import hidden_linux  # noqa: F401  # before the package is imported

import numpy as np
import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from commands import run_command
from hydra_memory import remember_composed_configs
from processes import Result
from sports_lightning import CONF_DIR
from sports_lightning.config.checks import normalize_composed
from sports_lightning.data.sample.dataset import draw_sample
from sports_lightning.data.sample.scenes import SPORTS, draw_scene

# Not trainer.precision=auto: a short trial decides it, so that it may differ between two runs on a busy machine.
FAST = [
    *("data=sample", "model.image_size=64"),
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.enable_progress_bar=false"),
]

# On a busy machine any example may take longer than Hypothesis allows by default.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

remember_composed_configs()

# A shell lets its background jobs ignore Ctrl-C, which tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A process that hangs and is ended with SIGABRT prints its stack.
os.environ["PYTHONFAULTHANDLER"] = "1"

# Tests use a separate cache, not the one in the home folder; pytest-xdist's processes share that of the first one.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory()
    os.environ["SPORTS_LIGHTNING_CACHE"] = _cache.name

# Whatever the user's environment: nobody is logged in to W&B, and errors are single lines.
os.environ["NETRC"] = os.devnull
for name in ("WANDB_MODE", "WANDB_API_KEY", "HYDRA_FULL_ERROR"):
    os.environ.pop(name, None)


def composed(tmp_path: Path, *overrides: str) -> DictConfig:
    """`conf/train.yaml` with these overrides, as a command in the run folder `tmp_path` sees it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    cfg.hydra.runtime.output_dir = str(tmp_path)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    normalize_composed(cfg, "train")
    return cfg


def model_config(name: str, **changes: Any) -> DictConfig:
    """`conf/model/timm.yaml` for an untrained model, with these changes."""
    settings = {
        "name": name,
        "pretrained": False,
        "weights": None,
        "image_size": None,
        "crop_mode": None,
        "arguments": {},
    }
    return OmegaConf.create({**settings, **changes})


def assert_error_line(result: Result, *parts: str) -> None:
    """Assert that the command failed and printed one line on stderr that contains `parts`."""
    assert result.status == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run those tests last that need the trained run: one process makes it, and the others need not wait for it."""
    items.sort(key=lambda item: "trained" in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _own_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start every test in its own temporary folder; undo its changes of the environment and of libraries' settings."""
    import torch  # not above: pytest-xdist's first process, which runs no test, reads this file too

    monkeypatch.chdir(tmp_path)
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    with patch.dict(os.environ), patch.object(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS):
        yield
    torch.use_deterministic_algorithms(is_deterministic)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all of pytest-xdist's processes share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def sample(shared: Path) -> Path:
    """The whole sample dataset, 1,600 images; `few` is drawn in a fifth of the time."""
    with FileLock(shared / "sample.lock"):
        draw_sample(shared / "data/sample")
    return shared / "data/sample"


@pytest.fixture(scope="session")
def few(shared: Path) -> Path:
    """24 / 5 / 5 images per class of the sample dataset, for runs whose accuracy does not matter."""
    with FileLock(shared / "few.lock"):
        if not (shared / "few").exists():
            for split_number, (split, count) in enumerate({"train": 24, "valid": 5, "test": 5}.items()):
                for number, sport in enumerate(SPORTS):
                    (folder := shared / "few.partial" / split / sport).mkdir(parents=True)
                    for i in range(count):
                        scene = draw_scene(sport, np.random.default_rng([split_number, number, i]))
                        scene.save(folder / f"{i + 1:03d}.jpg", quality=90)
            (shared / "few.partial").rename(shared / "few")
    return shared / "few"


@pytest.fixture(scope="session")
def trained(few: Path, shared: Path) -> tuple[Path, str]:
    """The run folder of a short training on `few`, and what the command printed. Tests must not change it."""
    with FileLock(shared / "trained.lock"):
        if not (shared / "trained.log").exists():
            arguments = [*FAST, f"data.root={few}", "trainer.max_epochs=3", "hydra.run.dir=trained"]
            (shared / "trained.log").write_text(run_command("train", *arguments, cwd=shared).stdout)
    printed = (shared / "trained.log").read_text()
    return Path(printed.strip().splitlines()[-1]), printed
