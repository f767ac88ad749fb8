"""How long the HTML pages take to open, whether they request anything else, and whether they fit a phone's screen.

    python benchmarks/page_opening.py PAGE… [--rounds 5] [--screenshots FOLDER]

Needs `pip install playwright` and a Chromium in the PATH. Each round opens a page in a new, empty profile. The time
is measured from the start of the navigation to the end of the load event, when the whole page is loaded and its
scripts have run.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


def opened(browser: Browser, page: Path, size: str, screenshot: Path | None) -> tuple[float, int, int]:
    """Milliseconds, requests other than for the page itself, and pixels by which the page is too wide."""
    context = browser.new_context(viewport=SIZES[size])
    tab = context.new_page()
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.absolute().as_uri())
    milliseconds = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if screenshot:
        tab.screenshot(path=screenshot, full_page=True)
    context.close()
    return milliseconds, sum(not url.startswith("data:") for url in requests) - 1, overflow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--screenshots", type=Path)
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for page in options.pages:
            for size in SIZES:
                target = options.screenshots / f"{page.stem}-{size}.png" if options.screenshots else None
                found = [opened(browser, page, size, target) for _ in range(options.rounds)]
                times, (_, requests, overflow) = [milliseconds for milliseconds, *_ in found], found[0]
                print(
                    f"{page.name}, {page.stat().st_size / 1e6:.1f} MB, {size}: {statistics.median(times):.0f} ms "
                    f"({min(times):.0f}-{max(times):.0f}), {requests} requests, {overflow} px too wide"
                )
        browser.close()


if __name__ == "__main__":
    main()
