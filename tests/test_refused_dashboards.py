"""A dashboard whose server refuses, or fails during the run, costs a line of the log and not the run."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.loggers.logger import DummyLogger

from conftest import composed
from sports_lightning.api.global_state import global_state_restored
from sports_lightning.train.loggers import build_loggers, open_loggers

CSV = OmegaConf.create({"logger": {"csv": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "."}}})


class Refusing(BaseHTTPRequestHandler):
    """Answers requests for a page, and refuses all others or never answers them."""

    status: int | None = 403  # None: no answer

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.answer(200)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.status is None:
            self.server.is_closing.wait()  # type: ignore[attr-defined]
        self.answer(self.status or 503)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Refusing,), {}))
    server.is_closing = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.is_closing.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def loggers(tmp_path: Path, name: str) -> list[Logger]:
    return open_loggers(build_loggers(composed(tmp_path, f"logger={name}")))


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, None])
def test_wandb_continues_offline(
    status: int | None, server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb")
    server.RequestHandlerClass.status = status
    os.environ |= {
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "1",
    }
    try:
        with caplog.at_level("INFO"):
            (logger,) = loggers(tmp_path, "wandb")
        logger.log_metrics({"val/acc": 0.5})
        logger.experiment.finish()  # type: ignore[attr-defined]
    finally:
        wandb.teardown()
    lines = [record.message for record in caplog.records if record.message.startswith("wandb:")]
    assert len(lines) == 1
    assert "offline (" in lines[0]
    assert "wandb sync" in lines[0]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_mlflow_is_left_out(server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("mlflow")
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.server_port}"
    (logger,) = loggers(tmp_path, "mlflow")
    assert isinstance(logger, DummyLogger)
    (line,) = [record.message for record in caplog.records if record.name.startswith("sports_lightning")]
    assert line.startswith("MLFlowLogger was not started; the run continues without it: ")


def test_a_logger_that_fails_during_the_run_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no answer\nmore")

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    (logger,) = open_loggers(build_loggers(CSV))
    logger.log_metrics({"a": 1.0})
    logger.log_metrics({"a": 2.0})
    logger.finalize("success")
    assert caplog.messages == ["CSVLogger failed; the run continues without it: ConnectionError: no answer"]


def test_a_logger_that_does_nothing_replaces_one_that_cannot_start(tmp_path: Path) -> None:
    built = build_loggers(CSV)
    with patch.object(CSVLogger, "experiment", PropertyMock(side_effect=ConnectionError)):
        (logger,) = open_loggers(built)
    trainer = Trainer(logger=[logger], callbacks=[LearningRateMonitor()], enable_progress_bar=False, accelerator="cpu")
    trainer.callbacks[0].on_train_start(trainer)  # it refuses a trainer without loggers
    logger.log_metrics({"a": 1.0})


@pytest.mark.parametrize(("name", "expected"), [("csv", []), ("wandb", ["WANDB_"]), ("mlflow", ["MLFLOW_"])])
def test_only_the_dashboards_in_use_change_the_environment_and_a_notebook_keeps_its_own(
    name: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sports_lightning.train.loggers.instantiate", lambda *_, **__: CSVLogger(tmp_path))
    cfg, before = composed(tmp_path, f"logger={name}"), set(os.environ)
    with global_state_restored():
        build_loggers(cfg)
        assert sorted({variable.partition("_")[0] + "_" for variable in set(os.environ) - before}) == expected
    assert set(os.environ) == before
