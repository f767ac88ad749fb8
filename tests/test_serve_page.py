"""The page of the server, in a headless Chromium."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from browser import CHROMIUM, Page, browser
from test_serve import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH"),
]


@pytest.fixture(scope="module")
def address(trained: tuple[Path, str]) -> Iterator[str]:
    with serving(trained[0], "limits.body_mb=1") as opened:
        yield opened


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    with browser() as opened:
        yield opened


ANSWERED = "[...document.querySelectorAll('.answer h2')].filter(h => h.textContent !== '…').length === {}"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_images_are_chosen_answered_and_explained(
    width: int, dark: bool, address: str, page: Page, few: Path, tmp_path: Path
) -> None:
    page.resize(width, 900, dark, phone=width < 500)
    page.open(address)
    (tmp_path / "<b>broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    Image.new("RGB", (700, 700)).save(tmp_path / "large.bmp")
    photo = next(few.glob("test/*/*.jpg"))
    page.choose_files("#files", photo, tmp_path / "<b>broken.jpg", tmp_path / "large.bmp")
    page.wait(ANSWERED.format(3))
    page.wait("document.getElementById('status').textContent === '1 of 3 images answered'")
    assert page.evaluate("document.querySelectorAll('.answer:not(.refused) .ranks li').length") == 5
    shares = page.evaluate("[...document.querySelectorAll('.ranks .bar')].map(bar => parseFloat(bar.style.width))")
    assert shares == sorted(shares, reverse=True)
    texts = page.evaluate("[...document.querySelectorAll('.refused')].map(card => card.textContent).join()")
    assert "larger than 1 MB" in texts
    assert "<b>broken.jpg" in texts
    page.evaluate("document.querySelector('.answer:not(.refused) button').click()")
    page.wait("document.querySelector('.heat')?.naturalWidth === 64")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off"
    assert {request.partition(":")[0] for request in page.requested()} <= {"http", "blob", "data"}
    assert all(request.startswith(address) for request in page.requested() if request.startswith("http"))
    assert not [error for error in page.errors() if "exceptionDetails" in error]


def test_an_image_is_dropped_or_pasted(address: str, page: Page) -> None:
    page.resize(1280, 900)
    page.open(address)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "green").save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    for number, (kind, event) in enumerate((("drop", "DragEvent"), ("paste", "ClipboardEvent")), 1):
        name = "dataTransfer" if kind == "drop" else "clipboardData"
        page.evaluate(
            f"""(() => {{
              const bytes = Uint8Array.from(atob("{content}"), letter => letter.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], "{kind}.png", {{ type: "image/png" }}));
              document.body.dispatchEvent(new {event}("{kind}", {{ {name}: data, bubbles: true }}));
            }})()"""
        )
        page.wait(ANSWERED.format(number))
        assert page.evaluate("document.querySelector('.answer figcaption').textContent") == f"{kind}.png"


def test_every_control_is_reached_by_keyboard_and_has_a_name(address: str, page: Page, few: Path) -> None:
    page.resize(1280, 900)
    page.open(address)
    page.choose_files("#files", next(few.glob("test/*/*.jpg")))
    page.wait(ANSWERED.format(1))
    names = []
    for _ in range(4):
        page.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        assert page.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(drop).outlineStyle"
        ) != ("nonenone"), names
    assert names[0] == "files"
    assert names[1] == "Heat map"
    assert "Classes" in names
    page.evaluate("document.querySelector('.answer button').focus()")
    page.press("Enter")
    page.wait("document.querySelector('.heat')?.naturalWidth === 64")
    unnamed = page.evaluate("[...document.querySelectorAll('img')].filter(image => !image.hasAttribute('alt')).length")
    assert unnamed == 0
    live = page.evaluate("document.querySelector('[role=status]').getAttribute('aria-live')")
    assert live == "polite"
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    buttons = [node["name"]["value"] for node in tree if node.get("role", {}).get("value") == "button"]
    assert any("Choose images" in name for name in buttons)
    assert all(buttons)


def test_a_server_that_has_stopped_is_said(address: str, page: Page, few: Path) -> None:
    page.open(address)
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.choose_files("#files", next(few.glob("test/*/*.jpg")))
    page.wait(ANSWERED.format(1))
    assert "the server does not answer" in page.evaluate("document.querySelector('.refused').textContent")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
