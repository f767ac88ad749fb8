"""Uploads to the Hugging Face Hub, by its own client, to a server on this machine that keeps what arrives."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import ModelCard, constants

from commands import run_command, try_command
from processes import Result

TOKEN = "hf_test"


class Hub(ThreadingHTTPServer):
    """A Hub with one repository, `me/sports`.

    Attributes:
        objects: content of large files by SHA-256.
        files: content of the repository by path, after the first commit.
        status: of the answer to a commit.
        is_private: whether the repository was created as a private one.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.objects: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.status, self.is_private = 200, False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Request(BaseHTTPRequestHandler):
    """The requests of an upload: https://huggingface.co/docs/hub/api and the API of Git LFS."""

    server: Hub

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):  # chunked
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        content = self._body()
        assert self.path == f"/objects/{hashlib.sha256(content).hexdigest()}"
        self.server.objects[self.path.rpartition("/")[2]] = content
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.server.is_private = json.loads(body)["visibility"] == "private"
            self._answer({"url": f"{self.server.url}/me/sports"})
        elif self.path == "/api/models/me/sports/preupload/main":
            large = (".ckpt", ".safetensors", ".onnx")
            self._answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        elif self.path == "/me/sports.git/info/lfs/objects/batch":
            uploads = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/objects/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": uploads})
        elif self.path == "/api/models/me/sports/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": self.path}, 404)

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        if self.server.status != 200:
            self._answer({"error": "You have exceeded your storage."}, self.server.status)
            return
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
        self._answer({"commitUrl": f"{self.server.url}/me/sports/commit/1", "commitOid": "1", "success": True})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running server that the client takes for the Hub, with a login."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own, in compiled code
        yield server
        server.shutdown()


def push(run: Path, folder: Path, *more: str) -> Result:
    return try_command("export", f"ckpt_path={run}", "push=me/sports", f"hydra.run.dir={folder}", *more)


@pytest.mark.slow
def test_push_uploads_checkpoint_card_and_timm_layout(trained: tuple[Path, str], hub: Hub, tmp_path: Path) -> None:
    result = push(trained[0], tmp_path / "export", "format=[onnx]")
    assert result.status == 0, result.stderr
    assert f"uploaded to {hub.url}/me/sports" in result.stdout
    assert hub.is_private
    assert set(hub.files) == {
        *("best.ckpt", "README.md", "config.json", "model.safetensors", "model.onnx", "network.onnx"),
        *("parity.json", "parity.html"),
    }
    assert hub.files["best.ckpt"] == (trained[0] / "checkpoints/best.ckpt").read_bytes()
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.to_dict().items() >= {"library_name": "timm", "pipeline_tag": "image-classification"}.items()
    for section in ("## Intended use", "## Metrics", "## Exported files", "| model.onnx |", "| timm |"):
        assert section in card.text
    for name, content in hub.files.items():
        (tmp_path / "downloaded").mkdir(exist_ok=True)
        (tmp_path / "downloaded" / name).write_bytes(content)
    net: Any = timm.create_model(f"local-dir:{tmp_path / 'downloaded'}", pretrained=True)
    assert net.pretrained_cfg["label_names"] == sorted(path.name for path in (trained[0].parent / "few/test").iterdir())
    run_command("evaluate", f"ckpt_path={tmp_path / 'downloaded/best.ckpt'}", cwd=tmp_path)


@pytest.mark.slow
def test_a_refused_upload_is_one_line(trained: tuple[Path, str], hub: Hub, tmp_path: Path) -> None:
    hub.status = 403
    result = push(trained[0], tmp_path / "export", "format=[timm]")
    assert result.status == 1
    assert result.stderr.startswith("error: push=me/sports failed (HfHubHTTPError: ")
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "export/timm/config.json").exists()
    assert not hub.files


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sports", "push=sports has no owner: write push=OWNER/sports"),
        ("me/a/b", "push=me/a/b: Repo id must be in the form"),
        ("me/..", "push=me/..: "),
    ],
)
def test_names_that_the_hub_does_not_take(
    trained: tuple[Path, str], hub: Hub, tmp_path: Path, name: str, said: str
) -> None:
    result = try_command("export", f"ckpt_path={trained[0]}", f"push={name}", f"hydra.run.dir={tmp_path / 'export'}")
    assert result.status == 1
    assert said in result.stderr
    assert not (tmp_path / "export").exists()


def test_push_without_login_is_one_line(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    result = push(trained[0], tmp_path / "export")
    assert result.stderr == (
        "error: push=me/sports needs a login: run hf auth login, or set HF_TOKEN to a token that may write\n"
    )
