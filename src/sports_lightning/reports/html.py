"""Self-contained web pages: each is one file, which makes no requests and needs no network.

The pages are Jinja templates in `templates/`; in HTML templates all values are escaped.
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from sports_lightning.data.file_hashes import printable, read_file
from sports_lightning.data.formats import open_image
from sports_lightning.data.modes import read_rgb
from sports_lightning.data.value_range import ValueRange
from sports_lightning.storage.files import write_text

_environment = Environment(
    loader=PackageLoader("sports_lightning.reports"),
    autoescape=lambda name: name is not None and not name.endswith(".md"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render `templates/<template>` into one file."""
    write_text(path, render_page(template, **values))


def _markdown(text: str) -> str:
    """A text of the user on one line of Markdown, without a meaning of its characters."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", printable(text))


_environment.filters["markdown"] = _markdown


def render_page(template: str, **values: Any) -> str:
    """Render `templates/<template>`."""
    return _environment.get_template(template).render(**values)


def thumbnail_uri(path: Path, value_range: ValueRange | None = None, side: int = 160) -> str:
    """A thumbnail of the image at `path` (see `thumbnail`) as a data URI; "" if it cannot be read."""
    small = thumbnail(path, value_range, side)
    return image_uri(small) if small else ""


def thumbnail(path: Path, value_range: ValueRange | None = None, side: int = 160) -> Image.Image | None:
    """The image at `path`, RGB, at most `side` × `side` pixels; None if it cannot be read."""
    try:
        with open_image(read_file(path)) as image:
            small = read_rgb(image, side, value_range)
            small.thumbnail((side, side))
    except Exception:  # PIL's decoders raise a dozen types on damaged files
        return None
    return small


def image_uri(image: Image.Image) -> str:
    """An image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return jpeg_uri(buffer.getvalue())


def jpeg_uri(content: bytes) -> str:
    """The content of a JPEG as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def chart(lines: Mapping[str, Sequence[tuple[float, float]]], width: int = 460, height: int = 260) -> dict[str, Any]:
    """The values for `templates/chart.svg`: lines of (x, y) points on common axes.

    Points that are not finite are omitted. An empty chart has no lines.
    """
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in lines.items()}
    finite = {name: points for name, points in finite.items() if points}
    every = [point for points in finite.values() for point in points]
    if not every:
        return {"width": width, "height": height, "lines": [], "x_ticks": [], "y_ticks": []}
    left, right, top, bottom = 44, width - 8, 8, height - 24
    x_ticks, y_ticks = (_ticks(min(values), max(values)) for values in zip(*every, strict=True))

    def place(value: float, ticks: list[float], start: float, end: float) -> float:
        return round(start + (value - ticks[0]) / ((ticks[-1] - ticks[0]) or 1) * (end - start), 1)

    return {
        "width": width,
        "height": height,
        "lines": [
            {
                "name": name,
                "number": number,
                "points": " ".join(
                    f"{place(x, x_ticks, left, right)},{place(y, y_ticks, bottom, top)}" for x, y in points
                ),
                "last": (place(points[-1][0], x_ticks, left, right), place(points[-1][1], y_ticks, bottom, top)),
            }
            for number, (name, points) in enumerate(finite.items())
        ],
        "x_ticks": [(f"{tick:g}", place(tick, x_ticks, left, right)) for tick in x_ticks],
        "y_ticks": [(f"{tick:g}", place(tick, y_ticks, bottom, top)) for tick in y_ticks],
    }


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that span `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= 5)
    first = math.floor(low / step + 1e-9)
    count = math.ceil(high / step - 1e-9) - first
    return [round((first + i) * step, 10) for i in range(max(1, count) + 1)]
