"""The server: the answers of `predict`, whatever is sent to it, its limits, its end, and its page."""

import asyncio
import base64
import http.client
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import ExifTags, Image
from torch import Tensor

from commands import run_command, try_command
from conftest import assert_error_line
from processes import Process
from sports_lightning import CONF_DIR
from sports_lightning.data.dataset_index import Split
from sports_lightning.evaluate.decisions import NONE_OF_THESE
from sports_lightning.inference.feature_cache import FeatureCache
from sports_lightning.inference.frozen_part import FrozenBackbone
from sports_lightning.inference.predictor import evaluation_images
from sports_lightning.models.classifier import Classifier, load_classifier
from sports_lightning.runs.provenance import read_digests, read_images, read_provenance
from sports_lightning.serve.app import build_app
from sports_lightning.serve.neighbours import NoNeighbours, find_training_images
from sports_lightning.serve.network import Network, NetworkStopped
from sports_lightning.serve.server import Server, open_socket
from sports_lightning.serve.service import Service, open_service
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.files import read_csv

DECISIONS = ("reject=0.3", "coverage=0.9", "conformal=aps")

Files = list[tuple[str, bytes]]


def serve_config(checkpoint: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("serve", [f"ckpt_path={checkpoint}", "inference.accelerator=cpu", *overrides])


@pytest.fixture(scope="module")
def checkpoint(trained: tuple[Path, str]) -> Path:
    return trained[0] / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def service(checkpoint: Path) -> Iterator[Service]:
    with open_service(load_classifier(checkpoint), serve_config(checkpoint, *DECISIONS)) as opened:
        yield opened


@pytest.fixture(scope="module")
def tight(checkpoint: Path) -> Iterator[Service]:
    """A service with small limits."""
    limits = ["limits.body_mb=1", "limits.images=3", "limits.requests=4", "limits.seconds=0.7"]
    cfg = serve_config(checkpoint, *limits, "inference.batch_size=4")
    with open_service(load_classifier(checkpoint), cfg) as opened:
        yield opened


def wait_until(is_met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def listening(service: Service) -> Iterator[int]:
    """The port at which a server answers while the context is open."""
    with open_socket("127.0.0.1", 0) as bound:
        server = Server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving(run: Path, *overrides: str) -> Iterator[str]:
    """The address of a server of the best checkpoint of a run."""
    checkpoint = run / "checkpoints" / "best.ckpt"
    with (
        open_service(load_classifier(checkpoint), serve_config(checkpoint, *overrides)) as service,
        listening(service) as port,
    ):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def port(tight: Service) -> Iterator[int]:
    with listening(tight) as number:
        yield number


def ask(service: Service, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """Send requests at once to the application, in this process."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.request(method, path, **more) for method, path, more in requests))

    return asyncio.run(send())


def form(*files: tuple[str, bytes]) -> dict[str, Any]:
    return {"files": [("images", file) for file in files]}


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo(few: Path) -> bytes:
    return next(few.glob("test/*/*.jpg")).read_bytes()


def odd_images() -> Files:
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return [
        ("turned.jpg", encoded(image, "JPEG", exif=exif)),
        ("gray.png", encoded(image.convert("L"))),
        ("transparent.png", encoded(image.convert("RGBA"))),
        ("sixteen.png", encoded(Image.fromarray(noise[..., 0].astype(np.uint16) * 257))),
        ("a.webp", encoded(image, "WEBP")),
        ("long.png", encoded(image.resize((10_000, 1)))),
        ("cmyk.jpg", encoded(image.convert("CMYK"), "JPEG")),
    ]


@pytest.mark.slow
def test_answers_are_those_of_predict_to_the_last_digit(
    service: Service, checkpoint: Path, few: Path, tmp_path: Path
) -> None:
    files = odd_images() + [(f"{i}.jpg", path.read_bytes()) for i, path in enumerate(sorted(few.glob("test/*/*.jpg")))]
    (tmp_path / "images").mkdir()
    for name, content in files:
        (tmp_path / "images" / name).write_bytes(content)
    arguments = [f"ckpt_path={checkpoint}", "inference.accelerator=cpu", *DECISIONS, "input=images"]
    folder = run_command("predict", *arguments).last_line
    expected = {Path(row["path"]).name: row for row in read_csv(Path(folder) / "predictions.csv")}
    groups = [files[:20], *([file] for file in files[20:40]), files[40:]]
    responses = ask(service, *(("POST", "/predict", form(*group)) for group in groups))
    answers = [answer for response in responses for answer in response.json()["predictions"]]
    assert [answer["name"] for answer in answers] == [name for name, _ in files]
    for answer in answers:
        row = expected[answer["name"]]
        assert (answer["prediction"], str(answer["probability"])) == (row["prediction"], row["probability"])
        for rank, each in enumerate(answer["top"], 1):
            assert (each["label"], str(each["probability"])) == (row[f"top{rank}"], row[f"top{rank}_probability"])
        assert (str(answer["score"]), json.dumps(answer["set"])) == (row["score"], row["set"])
    assert len(answers[0]["top"]) == 5
    assert {answer["rejected"] for answer in answers} == {False, True}
    assert {answer["prediction"] for answer in answers if answer["rejected"]} == {NONE_OF_THESE}


def test_json_and_form_have_the_same_answers(service: Service, photo: bytes) -> None:
    text = base64.b64encode(photo).decode()
    body = {"images": [text, f"data:image/jpeg;base64,{text}"]}
    by_json, by_form = ask(service, ("POST", "/predict", {"json": body}), ("POST", "/predict", form(("1", photo))))
    first, second = by_json.json()["predictions"]
    assert [first] == by_form.json()["predictions"]
    assert {**second, "name": "1"} == first


class Gate:
    """A function of the classifier that waits until it is opened."""

    def __init__(self) -> None:
        self.opened, self.entered, self.sizes = threading.Event(), threading.Event(), list[int]()

    def __call__(self, classifier: Classifier, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        self.entered.set()
        assert self.opened.wait(30)
        return classifier(images)


@contextmanager
def gated(checkpoint: Path, *overrides: str) -> Iterator[tuple[Service, Gate]]:
    """A service whose network waits at a gate, once it is ready."""
    gate = Gate()
    gate.opened.set()
    service = Service(load_classifier(checkpoint), serve_config(checkpoint, "inference.batch_size=8", *overrides))
    service.network = Network(gate, service.classifier, service.cfg.inference)
    service.network.start()
    service.network.largest = 8  # whatever is fastest on this machine
    gate.opened.clear(), gate.entered.clear(), gate.sizes.clear()
    try:
        yield service, gate
    finally:
        gate.opened.set()
        service.close()


def test_images_of_waiting_requests_share_a_batch(checkpoint: Path) -> None:
    with gated(checkpoint) as (service, gate):
        images = torch.zeros(12, 3, 64, 64, dtype=torch.uint8)
        outputs = [service.network.submit(images[0])]
        assert gate.entered.wait(30)
        outputs += [service.network.submit(image) for image in images[1:]]
        outputs[1].cancel()
        gate.opened.set()
        assert all(len(each.result(30)) == 10 for i, each in enumerate(outputs) if i != 1)
        assert (service.network.batches, service.network.images) == (3, 11)
        assert gate.sizes[1] == 8, "a full batch of those that wait; the canceled image is not run"


@pytest.mark.parametrize(("share", "sizes"), [(0.0, [1, 2, 4, 8]), (1e-3, [8])])
def test_smaller_batches_are_run_if_they_have_the_same_bits(share: float, sizes: list[int], checkpoint: Path) -> None:
    def function(classifier: Classifier, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3)) + share * len(images)

    cfg = serve_config(checkpoint, "inference.batch_size=8")
    network = Network(function, load_classifier(checkpoint), cfg.inference)
    network.start()
    assert network.sizes == sizes
    assert network.largest in sizes
    outputs = [network.submit(torch.full((3, 4, 4), value, dtype=torch.uint8)) for value in range(20)]
    assert [round(float(each.result(30)[0] - share * 8), 2) for each in outputs] == list(range(20))
    network.stop()


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims this size and holds almost nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


SMALL = encoded(Image.new("RGB", (8, 8)))
PNG_64 = base64.b64encode(SMALL).decode()
FLOATS = encoded(Image.fromarray(np.full((4, 4), 1e6, dtype=np.float32)), "TIFF")

# Content of a file → status, and a part of the line that says why.
FILES: dict[str, tuple[bytes, int, str]] = {
    "bomb": (png_header(60_000, 60_000), 413, "data.max_pixels"),
    "large": (png_header(10_000, 9_000), 413, "data.max_pixels"),
    "wide": (png_header(2**31, 5), 413, "data.max_pixels"),
    "truncated PNG": (encoded(Image.effect_noise((90, 90), 9))[:900], 422, "truncated"),
    "truncated JPEG": (encoded(Image.effect_noise((90, 90), 9), "JPEG")[:900], 422, "truncated"),
    "damaged PNG": (png_header(50, 50), 422, ""),
    "text": (b"hello", 415, "not a known image format"),
    "empty": (b"", 415, "not a known image format"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", 415, "not a known image format"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", 415, "vector graphics"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not a known image format"),
    "pickle": (b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.", 415, "not a known"),
    "floating-point": (FLOATS, 422, "data.value_range"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_image_has_its_status(kind: str, tight: Service) -> None:
    content, status, reason = FILES[kind]
    several, alone, after = ask(
        tight,
        ("POST", "/predict", form(("good.png", SMALL), ("bad\n.png", content))),
        ("POST", "/heatmap", form(("../../etc/passwd", content))),
        ("POST", "/predict", form(("good.png", SMALL))),
    )
    assert (several.status_code, alone.status_code, after.status_code) == (status, status, 200), alone.text
    assert several.json()["error"].startswith("image 2 (bad")
    for response in (several, alone):
        assert reason in response.json()["error"]
        assert "\n" not in response.json()["error"]


def multipart(body: bytes, boundary: str = "x") -> dict[str, Any]:
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary={boundary}"}}


PART = b'--x\r\ncontent-disposition: form-data; name="images"; filename="a.png"\r\n\r\n'


TWO_PARTS = PART + SMALL + b"\r\n" + PART + SMALL


async def endless(start: bytes = b"") -> AsyncIterator[bytes]:
    yield start
    for _ in range(40):
        yield bytes(100_000)


# Requests → status, and a part of the line that says why.
REQUESTS: dict[str, tuple[Callable[[], tuple[str, str, dict[str, Any]]], int, str]] = {
    "no body": (lambda: ("POST", "/predict", {}), 415, "multipart/form-data"),
    "no images": (lambda: ("POST", "/predict", {"json": {"images": []}}), 400, "no image"),
    "not JSON": (lambda: ("POST", "/predict", {"content": b"{", "headers": JSON}), 400, "not JSON"),
    "not UTF-8": (lambda: ("POST", "/predict", {"content": b"\xff\xfe\x00{", "headers": JSON}), 400, "not JSON"),
    "deep JSON": (lambda: ("POST", "/predict", {"content": b"[" * 300_000, "headers": JSON}), 400, "not JSON"),
    "a list": (lambda: ("POST", "/predict", {"json": [PNG_64]}), 400, "BASE64"),
    "numbers": (lambda: ("POST", "/predict", {"json": {"images": [1]}}), 400, "BASE64"),
    "not base64": (lambda: ("POST", "/predict", {"json": {"images": [PNG_64, "é!"]}}), 400, "image 2 is not base64"),
    "a file name": (lambda: ("POST", "/predict", {"json": {"images": ["/etc/passwd"]}}), 400, "not base64"),
    "an address": (lambda: ("POST", "/predict", {"json": {"images": ["http://localhost/"]}}), 400, "not base64"),
    "other type": (lambda: ("POST", "/predict", {"content": b"a=b", "headers": {"content-type": "x/y"}}), 415, "send"),
    "no boundary": (lambda: ("POST", "/predict", multipart(b"--x--", "")), 400, "form"),
    "other boundary": (lambda: ("POST", "/predict", multipart(b"--y\r\n\r\n--y--")), 400, ""),
    "broken form": (lambda: ("POST", "/predict", multipart(b"--x\r\ncontent-disposition\r\n\r\n")), 400, "form"),
    "an early end": (lambda: ("POST", "/predict", multipart(TWO_PARTS)), 400, "last boundary"),
    "a text field": (lambda: ("POST", "/predict", {"files": {"images": (None, "text")}}), 400, "not a file"),
    "many fields": (lambda: ("POST", "/predict", {"files": {str(i): (None, "") for i in range(99)}}), 400, "form"),
    "many files": (lambda: ("POST", "/predict", form(*[("a.png", SMALL)] * 4)), 413, "3 images"),
    "many files more": (lambda: ("POST", "/predict", form(*[("a.png", SMALL)] * 40)), 413, "3 images"),
    "many in JSON": (lambda: ("POST", "/predict", {"json": {"images": [PNG_64] * 4}}), 413, "3 images"),
    "two heat maps": (lambda: ("POST", "/heatmap", form(*[("a.png", SMALL)] * 2)), 413, "1 image"),
    "large body": (lambda: ("POST", "/predict", form(("a.png", bytes(1_100_000)))), 413, "limits.body_mb=1"),
    "large JSON": (lambda: ("POST", "/predict", {"content": bytes(1_100_000), "headers": JSON}), 413, "limits.body_mb"),
    "endless JSON": (lambda: ("POST", "/predict", {"content": endless(), "headers": JSON}), 413, "limits.body_mb"),
    "endless form": (lambda: ("POST", "/predict", {**multipart(b""), "content": endless(PART)}), 413, "limits.body_mb"),
    "wrong method": (lambda: ("GET", "/predict", {}), 405, "Not Allowed"),
    "deletion": (lambda: ("DELETE", "/info", {}), 405, "Not Allowed"),
    "other path": (lambda: ("GET", "/outputs/serve", {}), 404, "Not Found"),
    "encoded path": (lambda: ("GET", "/%2e%2e/%2e%2e/etc/passwd", {}), 404, "Not Found"),
    "double slash": (lambda: ("GET", "//etc/passwd", {}), 404, "Not Found"),
    "null in path": (lambda: ("GET", "/info%00.html", {}), 404, "Not Found"),
    "docs of a CDN": (lambda: ("GET", "/docs", {}), 404, "Not Found"),
    "other host": (lambda: ("GET", "/info", {"headers": {"host": "evil.example"}}), 400, "host"),
}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_wrong_request_has_its_status(kind: str, tight: Service) -> None:
    request, status, reason = REQUESTS[kind]
    (response,) = ask(tight, request())
    assert response.status_code == status, response.text
    assert reason in response.json()["error"]
    assert "\n" not in response.text
    assert tight.requests == 0


def exchange(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes through a socket, with pauses, until an answer comes; returns all that comes until it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
                if pause and select.select([connection], [], [], pause)[0]:
                    break
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:  # the server has closed it before all was sent
            pass
        return received


CLOSE = b"host: localhost\r\nconnection: close\r\n"
HEAD = b"POST /predict HTTP/1.1\r\n" + CLOSE + b"content-type: multipart/form-data; boundary=x\r\n"

# Bytes that no HTTP client sends → the start of the answer.
RAW: dict[str, tuple[list[bytes], bytes]] = {
    "nothing": ([], b"HTTP/1.1 408"),
    "slow head": ([b"GET /info HTTP/1.1\r\n", *[b"x: y\r\n"] * 20], b"HTTP/1.1 408"),
    "slow body": ([HEAD + b"content-length: 1000\r\n\r\n", PART, *[b"x"] * 20], b"HTTP/1.1 408"),
    "huge header": ([b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200_000], b"HTTP/1.1 400"),
    "many headers": ([b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 20_000], b"HTTP/1.1 400"),
    "not HTTP": ([b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"], b"HTTP/1.1 400"),
    "no host": ([b"GET / HTTP/1.1\r\n\r\n"], b"HTTP/1.1 400"),
    "two lengths": ([HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n--x--"], b"HTTP/1.1 400"),
    "negative length": ([HEAD + b"content-length: -5\r\n\r\n"], b"HTTP/1.1 400"),
    "claimed length": ([HEAD + b"content-length: 99999999999\r\n\r\n"], b"HTTP/1.1 413"),
    "parent folder": (
        [b"GET /../../etc/passwd HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"],
        b"HTTP/1.1 404",
    ),
    "proxy": ([b"GET http://example.com/ HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n"], b"HTTP/1.1 400"),
}


@pytest.mark.parametrize("kind", RAW)
def test_clients_that_are_slow_or_speak_no_http(kind: str, port: int) -> None:
    parts, start = RAW[kind]
    assert exchange(port, *parts, pause=0.1 if "slow" in kind else 0.0).startswith(start)
    assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok"


def test_a_client_that_leaves_is_forgotten(port: int, tight: Service) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD + b"content-length: 1000\r\n\r\n--x")
    wait_until(lambda: tight.requests == 0)


@pytest.mark.slow
def test_requests_beyond_the_limit_are_refused_and_late_ones_end(checkpoint: Path) -> None:
    with gated(checkpoint, "limits.requests=2", "limits.seconds=1") as (service, gate):
        waiting, second, third = ask(service, *[("POST", "/predict", form(("a.png", SMALL)))] * 3)
        gate.opened.set()
        (later,) = ask(service, ("POST", "/predict", form(("a.png", SMALL))))
    assert sorted([waiting.status_code, second.status_code, third.status_code]) == [503, 504, 504]
    refused = next(each for each in (waiting, second, third) if each.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "limits.requests=2" in refused.json()["error"]
    assert later.status_code == 200


def test_a_network_that_fails_is_said_and_ends_the_server(checkpoint: Path) -> None:
    class Failing(Gate):
        def __call__(self, classifier: Classifier, images: Tensor) -> Tensor:
            if not self.opened.is_set():
                raise ValueError("broken")
            return classifier(images)

    with patch(f"{__name__}.Gate", Failing), gated(checkpoint) as (service, _), listening(service) as number:
        response = httpx.post(f"http://127.0.0.1:{number}/predict", files={"images": SMALL})
        assert (response.status_code, "log" in response.json()["error"]) == (500, True)
        (health,) = ask(service, ("GET", "/health", {}))
        assert health.status_code == 503
        with pytest.raises(NetworkStopped):
            service.network.submit(torch.zeros(3, 64, 64, dtype=torch.uint8)).result(30)
        wait_until(lambda: not is_listening(number))


def test_a_heat_map_is_a_picture_of_the_network_input(service: Service, photo: bytes) -> None:
    drawn, unknown = ask(service, ("POST", "/heatmap", form(("a.jpg", photo))), ("GET", "/heatmap", {}))
    assert Image.open(io.BytesIO(drawn.content)).size == (64, 64)
    assert drawn.headers["content-type"] == "image/png"
    assert unknown.status_code == 405
    with patch("sports_lightning.serve.service.draw_heatmaps", return_value=[]):
        (refused,) = ask(service, ("POST", "/heatmap", form(("a.jpg", photo))))
    assert (refused.status_code, "feature maps" in refused.json()["error"]) == (501, True)
    with patch("sports_lightning.serve.service.draw_heatmaps", side_effect=ValueError("odd")):
        (failed,) = ask(service, ("POST", "/heatmap", form(("a.jpg", photo))))
    assert (failed.status_code, "ValueError: odd" in failed.json()["error"]) == (501, True)


def test_similar_training_images_where_their_features_are_cached(
    service: Service, checkpoint: Path, tmp_path: Path
) -> None:
    (refused,) = ask(service, ("POST", "/neighbours", form(("a.png", SMALL))))
    assert (refused.status_code, "finetune=head" in refused.json()["error"]) == (501, True)

    shutil.copytree(checkpoint.parents[1], tmp_path / "run")
    config = tmp_path / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace("mode: full", "mode: head"))
    own = tmp_path / "run/checkpoints/best.ckpt"
    classifier = load_classifier(own)
    missing = find_training_images(classifier, str(own))
    assert isinstance(missing, NoNeighbours)
    assert "not in the cache" in missing.reason

    cfg, digests = OmegaConf.load(config), read_digests(tmp_path / "run", "train")
    root, names = Path(cfg.data.root), list(digests)
    images = evaluation_images(classifier, root, Split(names, [0] * len(names)))
    inference = OmegaConf.merge(
        cfg.inference, {"precision": read_provenance(tmp_path / "run")["precision"]["precision"]}
    )
    cache = FeatureCache(FrozenBackbone(), classifier, inference, resolve_cache_dir(cfg.data))
    cache.features(images, list(digests.values()))
    with open_service(classifier, serve_config(own)) as opened:
        (found,) = ask(opened, ("POST", "/neighbours", form(("a.jpg", (root / names[7]).read_bytes()))))
    first, *others = found.json()["neighbours"]
    labels = {row["path"]: row["label"] for row in read_images(tmp_path / "run")}
    assert (first["path"], first["label"]) == (names[7], labels[names[7]])
    assert first["label"] == Path(names[7]).parent.name
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert first["thumbnail"].startswith("data:image/jpeg;base64,")
    assert len(others) == 5
    assert all(other["similarity"] <= first["similarity"] for other in others)


def test_a_checkpoint_without_its_run_folder_is_served(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "moved.ckpt")
    with open_service(load_classifier(checkpoint), serve_config(tmp_path / "moved.ckpt")) as opened:
        page, info, predicted = ask(
            opened, ("GET", "/", {}), ("GET", "/info", {}), ("POST", "/predict", form(("a.png", SMALL)))
        )
    assert "metrics of this checkpoint are not at hand" in page.text
    assert (info.json()["metrics"], "run" in info.json()["no_neighbours"]) == ({}, True)
    assert predicted.status_code == 200


def test_a_failure_of_the_server_is_json(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "predict", lambda _: 1 / 0)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://[::1]:80") as client:
            return await client.post("/predict", **form(("a.png", SMALL)))

    response = asyncio.run(send())
    assert (response.status_code, response.json()["error"]) == (500, "the server failed: see its log")


def test_metrics_are_not_those_of_another_crop(checkpoint: Path) -> None:
    with open_service(load_classifier(checkpoint), serve_config(checkpoint, "data.crop_mode=squash")) as opened:
        (info,) = ask(opened, ("GET", "/info", {}))
    assert info.json()["metrics"] == {}


def test_info_describes_the_model_and_openapi_every_address(service: Service, checkpoint: Path) -> None:
    info, api, health = ask(service, *(("GET", path, {}) for path in ("/info", "/openapi.json", "/health")))
    metrics = json.loads((checkpoint.parents[1] / "metrics.json").read_text())
    spec = service.classifier.spec
    assert info.json()["metrics"] == metrics
    assert (info.json()["classes"], info.json()["trained_on"]) == (spec.classes, spec.trained_on)
    assert info.json()["preprocessing"] == spec.preprocessing
    assert info.json()["limits"]["body_mb"] == 32
    assert health.json()["status"] == "ok"
    paths = api.json()["paths"]
    assert set(paths) == {"/predict", "/video", "/heatmap", "/neighbours", "/info", "/health"}
    assert set(paths["/predict"]["post"]["responses"]) == {*["200", "400", "408", "413", "415", "422", "503", "504"]}
    assert set(paths["/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "application/json"}


def test_the_page_needs_no_network_and_shows_the_metrics_with_intervals(service: Service, checkpoint: Path) -> None:
    (page,) = ask(service, ("GET", "/", {}))
    test = json.loads((checkpoint.parents[1] / "metrics.json").read_text())["test"]
    low, high = test["ci95"]["acc"]
    assert f"{test['acc']:.4f} ({low:.4f}–{high:.4f})" in page.text
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//|url\(|@import", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


@pytest.mark.slow
def test_errors_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    good = f"ckpt_path={checkpoint}"
    assert_error_line(try_command("serve"), "ckpt_path is not set")
    assert_error_line(try_command("serve", "ckpt_path=bad.ckpt", "port=0"), "bad.ckpt")
    assert_error_line(try_command("serve", "ckpt_path=none.ckpt"), "none.ckpt is not a file")
    assert_error_line(try_command("serve", good, "host=example.com"), "host=example.com is not an IP address")
    assert_error_line(try_command("serve", good, "host=192.0.2.1"), "host=192.0.2.1 is not an address of this machine")
    assert_error_line(try_command("serve", good, "port=70000"), "port=70000")
    assert_error_line(try_command("serve", good, "reject=2"), "reject=2")
    assert_error_line(try_command("serve", good, "port=0", "reject=0.001"), "reject=0.001 needs 999 validation images")
    assert_error_line(try_command("serve", good, "port=0", "coverage=0.999"), "coverage=0.999 needs 999")
    assert_error_line(try_command("serve", good, "limits.seconds=0"), "limits.seconds=0")
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        assert_error_line(try_command("serve", good, f"port={number}"), f"port={number} of 127.0.0.1 is in use")
    with patch("sports_lightning.config.checks.find_spec", return_value=None):
        assert_error_line(try_command("serve", good), "pip install -e '.[serve]'")
    assert not list(Path("outputs").rglob("*.log"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_once_all_requests_are_answered(
    number: int, checkpoint: Path, photo: bytes, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Process("serve", f"ckpt_path={checkpoint}", f"port={port}", "inference.accelerator=cpu")
    server.wait_until(lambda: is_listening(port))
    body = json.dumps({"images": [base64.b64encode(photo).decode()] * 32}).encode()
    connections = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(16)]
    for connection in connections:
        connection.putrequest("POST", "/predict")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:-5])
    wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").json()["requests"] == 16)
    os.kill(server.pid, number)
    wait_until(lambda: not is_listening(port))
    for connection in connections:
        connection.send(body[-5:])
    answers = [json.loads(connection.getresponse().read()) for connection in connections]
    assert [len(answer["predictions"]) for answer in answers] == [32] * 16
    ended = server.result()
    assert (ended.status, ended.stderr) == (0, "")
    assert "stopped after 512 images" in ended.stdout
