"""The files of a label check: `suspects.csv`, `suspects.html` to decide on them, and `relabel.csv`.

`relabel.csv` is a manifest of the whole dataset. The command writes it with the labels as they are, for editing in a
spreadsheet; the page saves it with the decisions applied. The page therefore contains all its lines, compressed (some
bytes per image), so that what it saves can be used at once, without another command that joins two files.
"""

import base64
import gzip
import hashlib
import json
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sports_lightning.audit.scan import NO_SPLIT, DatasetScan
from sports_lightning.audit.suspects import LabelCheck, Suspect, class_names
from sports_lightning.config.overrides import quote_value
from sports_lightning.data.manifest import label_cell
from sports_lightning.reports.html import thumbnail_uri, write_page
from sports_lightning.storage.files import csv_lines, write_csv, write_text

SUSPECTS_FILE = "suspects.csv"
_COLUMNS = ("image", "label", "split", "group", "suggested")
_SHOWN = 300  # suspects with images in suspects.html
_NEIGHBOURS = 6  # of each of them


def write_label_check(scan: DatasetScan, check: LabelCheck, folder: Path) -> None:
    """Write `suspects.csv`, `relabel.csv` and `suspects.html` into `folder`."""
    _write_suspects(scan, check, folder / SUSPECTS_FILE)
    suggested = {suspect.image: suspect.suggested for suspect in check.suspects}
    rows = [
        [path, label_cell(label), "" if split == NO_SPLIT else split, str(group), suggested.get(image, "")]
        for image, (path, label, split, group) in enumerate(
            zip(scan.paths, scan.labels, scan.splits, check.groups.tolist(), strict=True)
        )
    ]
    lines = list(csv_lines(_COLUMNS, rows))
    write_text(folder / "relabel.csv", "".join(lines))
    shown = check.suspects[:_SHOWN]
    packed = _pack(lines, {suspect.image: rows[suspect.image] for suspect in shown})
    write_page(
        folder / "suspects.html",
        "suspects.html",
        root=str(scan.root.absolute()),
        settings=shlex.join(
            ["data=folder", "data.manifest=relabel.csv", f"data.root={quote_value(str(scan.root.absolute()))}"]
        ),
        count=len(rows),
        total=len(check.suspects),
        shown=[_card(scan, suspect) for suspect in shown],
        cells={name: _cell("label", label_cell(name)) for name in class_names(scan)},
        lines=packed,
        key=hashlib.blake2b(packed.encode(), digest_size=8).hexdigest(),
    )


def _write_suspects(scan: DatasetScan, check: LabelCheck, path: Path) -> None:
    header = ["image", "label", "suggested", "split", "score", "label_probability", "suggested_probability"]
    header += ["neighbours", "of_label", "of_suggested", "copy", "digest"]
    rows = []
    for suspect in check.suspects:
        i, near = suspect.image, [scan.labels[other] for other in suspect.neighbours]
        numbers = (suspect.score, suspect.label_probability, suspect.suggested_probability)
        cells = [round(number, 6) if math.isfinite(number) else "" for number in numbers]
        votes = [len(near), near.count(scan.labels[i]), near.count(suspect.suggested)]
        copy = scan.paths[suspect.copies[0]] if suspect.copies else ""
        rows.append([scan.paths[i], scan.labels[i], suspect.suggested, scan.splits[i], *cells, *votes, copy])
        rows[-1].append(scan.digests[i])
    write_csv(path, header, rows)


def _pack(lines: list[str], split: dict[int, list[str]]) -> str:
    """The lines of the manifest for the page: JSON, compressed, in base64.

    Args:
        lines: the header, and the line of each image.
        split: {image: its cells} of the images that the page may change; their lines become
            [before the label, label, after the label].
    """
    packed: list[str | list[str]] = [_encodable(line) for line in lines]
    for image, (path, label, *rest) in split.items():
        after = ",".join(_cell(column, cell) for column, cell in zip(_COLUMNS[2:], rest, strict=True))
        parts = f"{_cell('image', path)},", _cell("label", label), f",{after}\n"
        packed[image + 1] = [_encodable(part) for part in parts]
    return base64.b64encode(gzip.compress(json.dumps(packed).encode(), mtime=0)).decode()


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()  # as `write_text` writes it


def _cell(column: str, value: str) -> str:
    _, line = csv_lines([column, ""], [[value, ""]])
    return line.removesuffix("\n").removesuffix('""').removesuffix(",")


def _card(scan: DatasetScan, suspect: Suspect) -> dict[str, Any]:
    """What the page shows of a suspect."""
    i = suspect.image
    return {
        "row": i + 1,
        "path": scan.paths[i],
        "label": scan.labels[i],
        "suggested": suspect.suggested,
        "uri": thumbnail_uri(scan.root / scan.paths[i], scan.value_range, 192),
        "reasons": list(_reasons(scan, suspect)),
        "neighbours": [
            {
                "uri": thumbnail_uri(scan.root / scan.paths[other], scan.value_range, 96),
                "label": scan.labels[other],
                "path": scan.paths[other],
            }
            for other in suspect.neighbours[:_NEIGHBOURS]
        ],
    }


def _reasons(scan: DatasetScan, suspect: Suspect) -> Iterable[str]:
    label, suggested = scan.labels[suspect.image], suspect.suggested
    for other in suspect.copies:
        yield f"Its copy {scan.paths[other]} is labeled {scan.labels[other]}."
    if math.isfinite(suspect.label_probability):
        best = "" if suspect.copies else f", {suspect.suggested_probability:.1%} {suggested}"
        yield f"By a classifier that was trained without this image: {suspect.label_probability:.1%} {label}{best}."
    if suspect.neighbours:
        near = [scan.labels[other] for other in suspect.neighbours]
        yield (
            f"Of the {len(near)} most similar images, {near.count(suggested)} are labeled {suggested} and "
            f"{near.count(label)} {label}."
        )
