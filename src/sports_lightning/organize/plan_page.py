"""`plan.html`: the plan as a page on which a person corrects it, without a server."""

import hashlib
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from sports_lightning.data.value_range import ValueRange
from sports_lightning.organize.plan import NONE, SURE, UNSURE, Plan, PlannedImage, image_cell
from sports_lightning.reports.html import thumbnail_uri, write_page
from sports_lightning.storage.files import harmless
from sports_lightning.storage.parallel import map_ahead, usable_cores

_SHOWN = 1500  # images with thumbnails
_ORDER = {UNSURE: 0, NONE: 1}  # before the classes, in the order of attention


def write_plan_page(plan: Plan, classes: list[str], value_range: ValueRange | None, folder: Path) -> None:
    """Write `plan.html` into the run folder of a plan.

    Args:
        plan: as it was made.
        classes: of the classifier.
        value_range: of 16- and 32-bit images.
        folder: the run folder.
    """
    numbers = {image.image: number for number, image in enumerate(plan.images)}
    shown = sorted(plan.images, key=_attention)[:_SHOWN]
    uris = map_ahead(lambda image: thumbnail_uri(Path(plan.input, image.image), value_range), shown, usable_cores())
    sections: dict[str, list[dict[str, Any]]] = {}
    for image, uri in zip(shown, uris, strict=True):
        sections.setdefault(image.label or "left where they are", []).append(_card(numbers[image.image], image, uri))
    rows = [[harmless(image_cell(image.image), "image"), image.label] for image in plan.images]
    counts = Counter(image.label or "left where they are" for image in plan.images)
    write_page(
        folder / "plan.html",
        "plan.html",
        input=plan.input,
        to=plan.to,
        mode=plan.mode,
        total=len(plan.images),
        shown=len(shown),
        counts=dict(sorted(counts.items(), key=lambda item: (_ORDER.get(item[0], 2), -item[1]))),
        sections=dict(sorted(sections.items(), key=lambda item: (_ORDER.get(item[0], 2), item[0].casefold()))),
        conflicts=[image for image in plan.images if image.conflict],
        copies=sum(1 for image in plan.images if image.copies),
        labels=list(dict.fromkeys([*classes, UNSURE, NONE])),
        rows=rows,
        command=shlex.join(["python", "-m", "sports_lightning.organize", f"plan={folder}", "apply=true"]),
        folder=str(folder),
        key=hashlib.blake2b(repr(rows).encode(errors="backslashreplace"), digest_size=8).hexdigest(),
    )


def _attention(image: PlannedImage) -> tuple[int, float]:
    return 0 if image.decision != SURE else 1, image.probability


def _card(number: int, image: PlannedImage, uri: str) -> dict[str, Any]:
    return {
        "number": number,
        "uri": uri,
        "image": image_cell(image.image),
        "suggested": f"{image.suggested} {image.probability:.0%}",
        "target": image.target,
        "copies": image.copies,
        "is_best": image.is_best,
        "conflict": image.conflict,
        "companions": list(image.companions),
    }
