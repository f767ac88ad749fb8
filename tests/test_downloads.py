"""The real clients of Kaggle, the Hugging Face hub and Weights & Biases, against servers on the loopback address."""

import io
import json
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from conftest import FAST
from processes import Process, Result
from sports_lightning.errors import UserError
from sports_lightning.train import loggers

Answer = tuple[dict[str, str], bytes] | tuple[dict[str, str], bytes, int]  # headers, body, status
KAGGLE_TEST_PORT = 7777  # fixed in Kaggle's client: KAGGLE_API_ENVIRONMENT=TEST


@contextmanager
def serving(answer: Callable[[str], Answer | None], port: int = 0) -> Iterator[int]:
    """A server that answers every GET, HEAD and POST with `answer(path)`, by default with status 200, or 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = answer(self.path)
            headers, body, *status = found or ({}, b"", 404)
            self.send_response(*(status or [200]))
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


QUICK = ["debug=fast", "test=false", "hydra.run.dir=run"]


def train(*arguments: str, **environment: str) -> Result:
    """Train in a separate process: the clients read their environment when they are imported."""
    return Process("train", *FAST, *QUICK, *arguments, **environment).result()


@pytest.mark.slow
def test_weights_are_downloaded_from_the_hub(few: Path, tmp_path: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=1000)
    weights = safetensors.torch.save(donor.state_dict())
    headers = {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}

    def hub(path: str) -> Answer | None:
        return (headers, weights) if path.endswith("/model.safetensors") else None

    with serving(hub) as port:
        model = ["model=timm", "model.name=test_resnet", "finetune=head", f"data.root={few}"]
        home = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
        result = train(*model, **home)
    assert result.status == 0, result.stderr
    state = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, value in donor.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(state[f"classifier.net.{name}"], value), f"{name} is frozen, BatchNorm statistics too"
    # The second time from the cache, without a reachable hub.
    assert train(*model, "hydra.run.dir=again", **home).status == 0


@pytest.mark.slow
def test_data_is_downloaded_from_kaggle(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("kagglehub")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", KAGGLE_TEST_PORT)) == 0:
            pytest.skip(f"port {KAGGLE_TEST_PORT}, which Kaggle's client uses for tests, is taken")
    archive, unsplit = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for image in few.glob("*/*/00[12].jpg"):
            bundle.write(image, image.relative_to(few))
        bundle.writestr("sports.csv", "stray")
        bundle.writestr("EfficientNetB0.h5", "stray")
    with zipfile.ZipFile(unsplit, "w") as bundle:
        for image in few.glob("train/*/*.jpg"):
            bundle.write(image, Path("photos") / image.relative_to(few / "train"))
    served = archive

    def kaggle(path: str) -> Answer | None:
        if path.endswith("/GetDataset"):
            return {"Content-Type": "application/json"}, json.dumps({"currentVersionNumber": 9}).encode()
        return ({"Content-Type": "application/zip"}, served.getvalue()) if path.endswith("/DownloadDataset") else None

    environment = {"KAGGLE_API_ENVIRONMENT": "TEST", "KAGGLEHUB_CACHE": str(tmp_path / "cache")}
    arguments = ["data=sports100", "data.root=images", "data.download=true"]
    with serving(kaggle, KAGGLE_TEST_PORT):
        result = train(*arguments, **environment)
        served = unsplit
        split = ["data=kaggle", "data.name=me/balls", "hydra.run.dir=split"]
        other = Process("split", *split, **environment).result()
    assert result.status == 0, result.stderr
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"train", "valid", "test"}
    assert "20 train + 20 val" in result.stdout + result.stderr
    assert other.status == 0, other.stderr
    assert len(list((tmp_path / "data/me/balls/photos").glob("*/*.jpg"))) == 240
    assert (tmp_path / "split" / "split.csv").read_text().count("\nphotos/") == 240


@pytest.mark.slow
def test_kaggle_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("kagglehub")
    environment = {"KAGGLE_API_ENVIRONMENT": "TEST", "KAGGLEHUB_CACHE": str(tmp_path / "cache")}
    result = train("data=sports100", "data.root=images", "data.download=true", **environment)
    assert result.status == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert "data.root=FOLDER" in result.stderr
    assert not (tmp_path / "images").exists()


def test_wandb_is_online_only_when_logged_in_and_reachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Settings:
        base_url, api_key, identity_token_file = "http://127.0.0.1:9", "", None

    class Setup:
        settings = Settings

    monkeypatch.setattr("wandb.setup", lambda: Setup)
    monkeypatch.setenv("NETRC", os.devnull)
    assert "not logged in" in str(loggers.why_offline())
    Settings.api_key = "x" * 40
    assert "can't reach http://127.0.0.1:9" in str(loggers.why_offline())
    with serving(lambda _: None) as port:
        Settings.base_url = f"http://127.0.0.1:{port}"
        assert loggers.why_offline() is None


def test_hub_offline_variable_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from sports_lightning.models.pretrained import check_hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_hub("resnet50")
