"""Requests per second, p50 and p99 of `serve` and of plain servers with the same network, at 1, 8 and 64 clients.

python benchmarks/serve_load.py RUN/checkpoints/best.ckpt IMAGES [--servers serve plain threads] [--seconds 10]

"plain" is what a tutorial shows: FastAPI, an `async def` that decodes with Pillow and runs the network on one image;
"threads" is the same with `def`, which FastAPI runs in threads; "litserve" is LitServe with batches of up to 32 (it has
to be installed). Every client sends the next request once the last one is answered. A response other than 200, a
connection that ends, or an answer that is not the same every time counts as lost. The clients share the machine with
the server. `cpu_ms` is CPU time of the server per request, which other work on the machine disturbs less than the rate.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from sports_lightning.models.classifier import load_classifier

try:
    from litserve import LitAPI, LitServer
except ImportError:
    LitAPI, LitServer = object, None

CLIENTS = (1, 8, 64)
WARM_UP = 3.0  # seconds


def plain(ckpt_path: str, port: int, threads: bool) -> None:
    """Serve a checkpoint as a tutorial does."""
    classifier = load_classifier(ckpt_path)
    transform, app = classifier.preprocessing.transform(), FastAPI()

    def answer(content: bytes) -> dict[str, object]:
        image = transform(pil_to_tensor(Image.open(io.BytesIO(content)).convert("RGB")))
        with torch.inference_mode():
            top = classifier(image[None]).softmax(dim=1)[0].topk(5)
        return {"labels": [classifier.spec.classes[i] for i in top.indices], "probabilities": top.values.tolist()}

    if threads:

        @app.post("/predict")
        def in_thread(images: UploadFile) -> dict[str, object]:
            return answer(images.file.read())
    else:

        @app.post("/predict")
        async def in_loop(images: UploadFile) -> dict[str, object]:
            return answer(await images.read())

    @app.get("/health")
    def health() -> str:
        return "ok"

    uvicorn.run(app, port=port, log_level="error")


class LitServeAPI(LitAPI):
    """The same network by LitServe."""

    def setup(self, device: str) -> None:
        self.classifier = load_classifier(os.environ["CHECKPOINT"])
        self.transform = self.classifier.preprocessing.transform()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads annotations
        return self.transform(pil_to_tensor(Image.open(request["images"].file).convert("RGB")))

    def batch(self, inputs):  # type: ignore[no-untyped-def]
        return torch.stack(inputs)

    def predict(self, x):  # type: ignore[no-untyped-def]
        with torch.inference_mode():
            return self.classifier(x).softmax(dim=1)

    def unbatch(self, output):  # type: ignore[no-untyped-def]
        return list(output)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        top = output.topk(5)
        labels = [self.classifier.spec.classes[i] for i in top.indices]
        return {"labels": labels, "probabilities": top.values.tolist()}


def litserve(ckpt_path: str, port: int) -> None:
    """Serve a checkpoint by LitServe."""
    os.environ["CHECKPOINT"] = ckpt_path  # for its processes
    server = LitServer(LitServeAPI(max_batch_size=32, batch_timeout=0.005), accelerator="cpu", timeout=60)
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="error")


def requests_of(folder: str, port: int) -> list[bytes]:
    """One complete HTTP request for each image."""
    made = []
    for path in sorted(Path(folder).rglob("*.jpg"))[:256]:
        head = b'--x\r\ncontent-disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        body = head + path.read_bytes() + b"\r\n--x--\r\n"
        lines = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        made.append(f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
    return made


class Load:
    """Clients that send requests until a moment in time.

    Attributes:
        latencies: seconds, of every answer.
        lost: requests without a good answer.
    """

    def __init__(self, port: int, messages: Sequence[bytes], compares: bool) -> None:
        self.port, self.messages, self.compares = port, messages, compares
        self.latencies: list[float] = []
        self.lost = 0
        self._answers: dict[int, bytes] = {}
        self._numbers = itertools.count()

    async def run(self, clients: int, seconds: float) -> None:
        """Send with so many clients for so long, and wait for the last answers."""
        end = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(end) for _ in range(clients)))

    async def _client(self, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while time.perf_counter() < end:
            number = next(self._numbers) % len(self.messages)
            started = time.perf_counter()
            try:
                writer.write(self.messages[number])
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                self.lost += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                continue
            is_good = head.startswith(b"HTTP/1.1 200")
            if self.compares:
                is_good &= self._answers.setdefault(number, body) == body
            self.lost += not is_good
            self.latencies.append(time.perf_counter() - started)
        writer.close()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def start(server: str, ckpt_path: str, port: int, settings: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers."""
    if server == "serve":
        arguments = ["-m", "sports_lightning.serve", f"ckpt_path={ckpt_path}", f"port={port}", *settings]
    else:
        arguments = [__file__, ckpt_path, "", "--as", server, "--port", str(port)]
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, start_new_session=True)
    for _ in range(600):
        with suppress(urllib.error.URLError, ConnectionError):
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200:
                return process
        time.sleep(0.1)
    raise TimeoutError(server)


def cpu_time(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])


def measure(server: str, options: argparse.Namespace) -> list[dict[str, float | str]]:
    port, rows = free_port(), []
    process = start(server, options.ckpt_path, port, options.settings)
    try:
        messages = requests_of(options.images, port)
        asyncio.run(Load(port, messages, False).run(8, WARM_UP))
        for clients in options.clients:
            load = Load(port, messages, server == "serve")
            started, cpu_seconds = time.perf_counter(), cpu_time(process.pid)
            asyncio.run(load.run(clients, options.seconds))
            rate = len(load.latencies) / (time.perf_counter() - started)
            p50, p99 = 1000 * np.quantile(load.latencies, [0.5, 0.99])
            row = {"server": server, "clients": clients, "requests_per_second": round(rate, 1), "p50_ms": round(p50)}
            cpu_ms = 1000 * (cpu_time(process.pid) - cpu_seconds) / len(load.latencies)
            row |= {"p99_ms": round(p99), "cpu_ms": round(cpu_ms, 1), "answered": len(load.latencies)}
            rows.append({**row, "lost": load.lost})
            print(json.dumps(rows[-1]), flush=True)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path")
    parser.add_argument("images")
    parser.add_argument("settings", nargs="*", help="of serve, such as inference.batch_size=16")
    parser.add_argument("--servers", nargs="+", default=["plain", "threads", "serve"])
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--as", dest="server", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server == "litserve":
        litserve(options.ckpt_path, options.port)
    elif options.server:
        plain(options.ckpt_path, options.port, options.server == "threads")
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a server is not left behind
        for server in options.servers:
            measure(server, options)


if __name__ == "__main__":
    main()
