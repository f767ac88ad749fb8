"""A dashboard whose server refuses, or fails during the run, costs a line of the log and not the run."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger

from conftest import composed
from sports_lightning.train.loggers import build_loggers, open_loggers


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


def test_mlflow_is_left_out(server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("mlflow")
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.server_port}"
    assert loggers(tmp_path, "mlflow") == []
    (line,) = [record.message for record in caplog.records if record.name.startswith("sports_lightning")]
    assert line.startswith("MLFlowLogger was not started; the run continues without it: ")


def test_a_logger_that_fails_during_the_run_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no answer\nmore")

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    cfg = OmegaConf.create({"logger": {"csv": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "."}}})
    (logger,) = open_loggers(build_loggers(cfg))
    logger.log_metrics({"a": 1.0})
    logger.log_metrics({"a": 2.0})
    logger.finalize("success")
    assert caplog.messages == ["CSVLogger failed; the run continues without it: ConnectionError: no answer"]
