"""Audit findings: `audit.json`, `leaks.csv`, `audit.html` and a summary on the console."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sports_lightning.audit.scan import NO_SPLIT, DatasetScan
from sports_lightning.audit.suspects import LabelCheck
from sports_lightning.data.folder_layout import SPLITS
from sports_lightning.data.leftovers import describe_ignored
from sports_lightning.reports.html import thumbnail_uri, write_page
from sports_lightning.split.duplicates import DuplicatePair
from sports_lightning.storage.files import write_csv, write_json

TINY = 64  # pixels; a shorter side below this is listed as tiny
_SHOWN_PAIRS = 300  # pairs with images in audit.html


def collect_findings(
    scan: DatasetScan,
    feature_neighbours: Sequence[DuplicatePair] | None = None,
    check: LabelCheck | None = None,
) -> dict[str, Any]:
    """All findings as JSON values; images are named by their paths.

    `pairs` (and its subsets) are lists of: first, second, kind, similarity, and whether the labels agree.

    Args:
        scan: the dataset scan.
        feature_neighbours: pairs of similar images, or None; they do not count as leaks.
        check: the suspects, or None if labels were not checked.
    """
    splits = list(dict.fromkeys(scan.splits))
    counts: dict[str, Counter[str]] = {split: Counter() for split in splits}
    for split, label in zip(scan.splits, scan.labels, strict=True):
        counts[split][label] += 1
    classes = sorted({label for labels in scan.classes.values() for label in labels})
    readable = [i for i, problem in enumerate(scan.problems) if not problem]
    sizes = {i: tuple(scan.thumbnails.size[i].tolist()) for i in readable}
    usual = Counter(sizes.values()).most_common(1)[0][0] if sizes else (0, 0)
    first = splits[0]  # train, if it exists
    return {
        "root": str(scan.root.absolute()),
        "images": {split: sum(count.values()) for split, count in counts.items()},
        "classes": len(classes),
        "class_counts": {label: {split: counts[split][label] for split in splits} for label in classes},
        "imbalance": {"split": first, "least": min(counts[first].values()), "most": max(counts[first].values())},
        "splits_missing": [split for split in SPLITS if split not in splits and NO_SPLIT not in splits],
        "classes_missing": {split: [c for c in classes if not counts[split][c]] for split in splits},
        "ignored": describe_ignored(scan.ignored),
        "nested": scan.nested,
        "unreadable": {path: why for path, why in zip(scan.paths, scan.problems, strict=True) if why},
        "tiny": [scan.paths[i] for i in readable if min(scan.thumbnails.size[i]) < TINY],
        "grey": [scan.paths[i] for i in readable if scan.thumbnails.grey[i]],
        "several_images": scan.several,
        "value_range": scan.value_range,
        "usual_size": list(usual),
        "odd_sized": {scan.paths[i]: list(size) for i, size in sizes.items() if size != usual},
        **_describe_pairs(scan, feature_neighbours),
        "suspects": None if check is None else len(check.suspects),
        "judged": 0 if check is None else check.judged,
    }


def _describe_pairs(scan: DatasetScan, feature_neighbours: Sequence[DuplicatePair] | None) -> dict[str, Any]:
    pairs = [_row(scan, pair) for pair in scan.pairs]
    neighbours = None
    if feature_neighbours is not None:
        neighbours = [_row(scan, pair) | {"kind": "similar features"} for pair in feature_neighbours]
    return {
        "identical": sum(row["kind"] == "identical" for row in pairs),
        "near_duplicates": sum(row["kind"] != "identical" for row in pairs),
        "verified": sum(row["kind"] == "verified" for row in pairs),
        "pairs": pairs,
        "label_conflicts": [row for row in pairs if not row["same_label"]],
        "leaks": [_row(scan, pair) for pair in scan.leaking],
        "leaking_images": {split: len(scan.leaks(split)) for split in dict.fromkeys(scan.splits)},
        "feature_neighbours": neighbours,
    }


def _row(scan: DatasetScan, pair: DuplicatePair) -> dict[str, Any]:
    identical = scan.digests[pair.first] == scan.digests[pair.second]
    return {
        "first": scan.paths[pair.first],
        "second": scan.paths[pair.second],
        "first_split": scan.splits[pair.first],
        "second_split": scan.splits[pair.second],
        "kind": "identical" if identical else "verified" if pair.verified else "mirrored" if pair.mirrored else "near",
        "similarity": pair.similarity,
        "same_label": scan.labels[pair.first] == scan.labels[pair.second],
    }


def write_findings(scan: DatasetScan, found: dict[str, Any], folder: Path) -> None:
    """Write `audit.json`, `leaks.csv` (images that an earlier split contains too) and `audit.html`."""
    write_json(folder / "audit.json", found)
    header = ["path", "split", "also", "also_split", "kind", "similarity", "same_label"]
    columns = ["second", "second_split", "first", "first_split", "kind", "similarity", "same_label"]
    write_csv(folder / "leaks.csv", header, ([row[column] for column in columns] for row in found["leaks"]))
    # Sorted by severity: leaks, label conflicts, others.
    ranked = sorted(found["pairs"], key=lambda row: (row["first_split"] == row["second_split"], row["same_label"]))
    sections = {
        "pairs": _with_thumbnails(scan, ranked),
        "feature_neighbours": _with_thumbnails(scan, found["feature_neighbours"] or []),
    }
    write_page(folder / "audit.html", "audit.html", found=found, tiny=TINY, **sections)


def _with_thumbnails(scan: DatasetScan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first rows of pairs, with their thumbnails."""
    return [
        row | {"images": [thumbnail_uri(scan.root / row[side], scan.value_range) for side in ("first", "second")]}
        for row in rows[:_SHOWN_PAIRS]
    ]


def print_findings(found: dict[str, Any]) -> None:
    """Print the summary as a table."""
    table = Table("audit", "", show_header=False)
    for name, value in summary(found).items():
        table.add_row(name, escape(value))
    Console().print(table)


def summary(found: dict[str, Any]) -> dict[str, str]:
    """{finding: its count as text}."""
    missing = [f"no {split}" for split in found["splits_missing"]]
    missing += [f"{split} lacks {', '.join(names)}" for split, names in found["classes_missing"].items() if names]
    leaks = [f"{count} of {split}" for split, count in found["leaking_images"].items() if count]
    imbalance, (width, height), neighbours = found["imbalance"], found["usual_size"], found["feature_neighbours"]
    several = found["several_images"]
    spread = f"{imbalance['least']} to {imbalance['most']} images each in {imbalance['split']}"
    return {
        "images": " + ".join(f"{count:,} {split}" for split, count in found["images"].items()),
        "classes": f"{found['classes']}, {spread}",
        "splits and classes missing": "; ".join(missing) or "none",
        "byte-identical pairs": str(found["identical"]),
        "near-duplicate pairs": f"{found['near_duplicates']}, {found['verified']} of them verified by geometry",
        "pairs under two labels": str(len(found["label_conflicts"])),
        "leaks": f"{', '.join(leaks)} also in an earlier split" if leaks else "none",
        **({} if neighbours is None else {"feature neighbours": f"{len(neighbours)} pairs to inspect"}),
        **_suspect_line(found),
        "unreadable": str(len(found["unreadable"])),
        **({"black and white": "values {:g} and {:g}".format(*found["value_range"])} if found["value_range"] else {}),
        **({"animations, several pages": f"{len(several)}, the first image is used"} if several else {}),
        f"below {TINY} pixels": str(len(found["tiny"])),
        "grey": str(len(found["grey"])),
        "skipped": found["ignored"] or "none",
        "folders taken together": found["nested"] or "none",
        "of another size": f"{len(found['odd_sized'])}; the usual size is {width}×{height}",
    }


def _suspect_line(found: dict[str, Any]) -> dict[str, str]:
    if found["suspects"] is None:
        return {}
    how = f"of {found['judged']:,} judged; see suspects.html" if found["judged"] else "copies with two labels only"
    return {"labels to check": f"{found['suspects']} ({how})"}
