"""The server finds the segments of videos, as `predict` does, and its page shows them."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from browser import CHROMIUM, browser
from commands import run_command
from sports_lightning.models.classifier import load_classifier
from sports_lightning.serve import videos
from sports_lightning.serve.service import open_service
from sports_lightning.videos.reader import Frame
from test_serve import ask, serve_config, serving
from test_videos import draw_match


@pytest.fixture(scope="module")
def address(trained: tuple[Path, str]) -> Iterator[str]:
    with serving(trained[0], "limits.body_mb=1") as opened:
        yield opened


@pytest.fixture(scope="module")
def match(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two classes."""
    path = tmp_path_factory.mktemp("video") / "match.mp4"
    draw_match(few, path)
    return path


def test_segments_are_those_of_predict(address: str, match: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    run_command("predict", f"ckpt_path={trained[0]}", str(match), f"hydra.run.dir={tmp_path / 'run'}")
    with (tmp_path / "run/videos/match/segments.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    answer = httpx.post(f"{address}video", files=[("video", ("match.mp4", match.read_bytes()))], timeout=60).json()
    assert answer["name"] == "match.mp4"
    for row, segment in zip(expected, answer["segments"], strict=True):
        assert [row["label"], *map(float, (row["start"], row["end"], row["probability"]))] == [
            segment["label"], segment["start"], segment["end"], segment["probability"]
        ]  # fmt: skip
        assert segment["thumbnail"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("content", "name", "status", "said"),
    [
        (b"no video", "a.mp4", 422, "a.mp4 cannot be read as a video"),
        (b"", "../../etc/passwd", 422, "cannot be read as a video"),
        (b"x" * 1_100_000, "large.mp4", 413, "larger than limits.body_mb=1"),
        (b"#EXTM3U\n#EXTINF:2,\n/dev/null\n#EXT-X-ENDLIST\n", "a.m3u8", 422, "cannot be read as a video"),
    ],
)
def test_what_is_refused(address: str, content: bytes, name: str, status: int, said: str) -> None:
    response = httpx.post(f"{address}video", files=[("video", (name, content))], timeout=60)
    assert response.status_code == status
    assert said in response.json()["error"]
    assert "/tmp" not in response.json()["error"]


def test_two_videos_at_once_are_refused(address: str, match: Path) -> None:
    two = [("video", ("a.mp4", match.read_bytes())), ("video", ("b.mp4", match.read_bytes()))]
    assert httpx.post(f"{address}video", files=two, timeout=60).status_code == 413


def test_a_video_that_is_decoded_slower_than_the_network_answers_ends_at_the_limit(
    trained: tuple[Path, str], match: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = []

    def slowly(*arguments: Any) -> Iterator[Frame]:
        for number in range(200):
            time.sleep(0.02)
            watched.append(number)
            yield Frame(number / 2, torch.zeros(3, 64, 64, dtype=torch.uint8))

    monkeypatch.setattr(videos, "read_frames", slowly)
    checkpoint = trained[0] / "checkpoints/best.ckpt"
    with open_service(load_classifier(checkpoint), serve_config(checkpoint, "limits.seconds=1")) as service:
        (response,) = ask(service, ("POST", "/video", {"files": [("video", ("a.mp4", match.read_bytes()))]}))
        assert response.status_code == 504
    assert len(watched) < 100, "also after the answer"


def test_without_pyav_it_says_so(address: str, match: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos.importlib.util, "find_spec", lambda _: None)
    response = httpx.post(f"{address}video", files=[("video", ("a.mp4", match.read_bytes()))], timeout=60)
    assert response.status_code == 501
    assert "pip install -e '.[video]'" in response.json()["error"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_shows_the_timeline(address: str, match: Path, width: int, dark: bool) -> None:
    with browser() as page:
        page.resize(width, 900, dark, phone=width < 500)
        page.open(address)
        page.choose_files("#files", match)
        page.wait("document.querySelectorAll('.segments button').length > 0")
        count = page.evaluate("document.querySelectorAll('.segments button').length")
        assert page.evaluate("document.querySelectorAll('.timeline button').length") == count
        page.wait("document.querySelector('.answer video').readyState >= 1")
        page.evaluate("[...document.querySelectorAll('.segments button')].at(-1).click()")
        if count > 1:
            page.wait("document.querySelector('video').currentTime > 0")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not [error for error in page.errors() if "exceptionDetails" in error]
