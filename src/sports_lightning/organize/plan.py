"""The plan: `plan.csv`, which a person may edit, and `plan.json`, which says what was planned."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from sports_lightning.data.manifest import read_csv_rows
from sports_lightning.errors import UserError
from sports_lightning.organize.sidecars import companion_target
from sports_lightning.organize.targets import FreeNames, Pattern
from sports_lightning.storage.files import DAMAGED, is_utf8, unquoted, write_csv, write_json

TABLE, FILE = "plan.csv", "plan.json"
SURE, UNSURE, NONE, PERSON = "sure", "unsure", "none", "person"  # decisions
_VERSION = 1
_COLUMNS = (
    *("image", "label", "suggested", "probability", "score", "decision", "target", "copies", "best"),
    *("companions", "conflict"),
)


@dataclass(frozen=True)
class PlannedImage:
    """An image and what is to become of it.

    Attributes:
        image: its path below `input`.
        label: the folder that it is for: a class, "unsure" or "none"; "": it stays where it is.
        suggested: the most probable class.
        probability: of that class.
        score: rejection score; None of a checkpoint without one.
        decision: "sure", "unsure" or "none" by the thresholds; "person" if a person chose the label.
        target: path below `to`; "" if it stays.
        companions: names of the files that stay with it, and their targets.
        sidecar: target of a new sidecar for its keyword; "" if none is needed.
        digest: of its content, see `digest_of`.
        date: when it was taken, in ISO format; "" if that is not known.
        copies: number of its group of near copies; 0: it has none.
        is_best: whether it has the most pixels of its group.
        conflict: why its target is not the one that the pattern gives; "" if it is.
    """

    image: str
    label: str
    suggested: str
    probability: float
    score: float | None
    decision: str
    target: str = ""
    companions: dict[str, str] = field(default_factory=dict)
    sidecar: str = ""
    digest: str = ""
    date: str = ""
    copies: int = 0
    is_best: bool = False
    conflict: str = ""


@dataclass(frozen=True)
class Plan:
    """A plan for the images below a folder.

    Attributes:
        input, to: absolute paths.
        mode, pattern, tags: the settings of `conf/organize.yaml`.
        states: {path of an image or companion below `input`: [size, mtime in nanoseconds, digest]}.
        images: in the order of `plan.csv`.
    """

    input: str
    to: str
    mode: str
    pattern: str
    tags: list[str]
    states: dict[str, list[int | str]]
    images: list[PlannedImage]

    def write(self, folder: Path) -> None:
        """Write `plan.json` and `plan.csv` into a run folder."""
        write_json(folder / FILE, {"version": _VERSION, **asdict(self)})
        rows = [
            [
                each.image, each.label, each.suggested, each.probability, "" if each.score is None else each.score,
                each.decision, each.target, each.copies or "", "best" if each.is_best else "",
                " ".join(each.companions), each.conflict,
            ]
            for each in self.images
        ]  # fmt: skip
        write_csv(folder / TABLE, _COLUMNS, rows)

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The plan of a run folder, as it was made.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if not folder.is_dir():
            raise UserError(f"plan={folder} does not exist")
        if not (folder / FILE).is_file():
            raise UserError(f"plan={folder} holds no {FILE}: pass the run folder of organize that made the plan")
        try:
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if values.pop("version") != _VERSION:
                raise UserError(f"{folder / FILE} is of another version of this package: plan again")
            return cls(**{**values, "images": [PlannedImage(**each) for each in values["images"]]})
        except DAMAGED as error:
            raise UserError(f"{folder / FILE} is damaged: plan again") from error

    def with_edits(self, table: Path) -> "Plan":
        """The plan with the changes that a person has made in its table.

        A label that was changed decides; where the target was not changed, too, the pattern gives a new one. A new
        label that differs in case only from another one of the table is that label, so that there are no two folders.
        An empty label, or a row that was removed, leaves an image where it is.

        Raises:
            UserError: a row of another image or twice, a column that is missing, or a target outside of `to`.
        """
        planned = {image_cell(each.image): each for each in self.images}
        known = {label for each in self.images for label in (each.suggested, each.label)}
        spelled = {label.strip().casefold(): label for label in sorted(known)}
        edited: dict[str, PlannedImage] = {}
        moved: list[str] = []
        given: set[str] = set()  # images for which a person has written a target
        for number, row in read_csv_rows(table):
            where = f"{table}, row {number}"
            _check_columns(table, list(row))
            key, label = image_cell(row["image"]), unquoted(row["label"], "label")
            label = label if label in known else spelled.setdefault(label.strip().casefold(), label.strip())
            if key not in planned or key in edited:
                what = "twice" if key in edited else "not in the plan"
                raise UserError(f"{where}: {row['image']!r} is {what}")
            image = planned[key]
            target = unquoted(row.get("target") or "", "target")
            if not is_utf8(label + target):
                raise UserError(f"{where}: the label or target is not UTF-8: save the table as CSV UTF-8")
            has_new_target = target not in ("", image_cell(image.target))
            if label != image.label:
                image = replace(image, label=label, decision=PERSON)
            if has_new_target:
                image = replace(image, target=_checked_target(target, where), decision=PERSON)
                given.add(key)
            elif label != planned[key].label:
                moved.append(key)
            edited[key] = image
        for key in planned.keys() - edited.keys():
            edited[key] = replace(planned[key], label="", decision=PERSON)
        return replace(self, images=self._placed(edited, moved, given))

    def _placed(self, edited: dict[str, PlannedImage], moved: Sequence[str], given: set[str]) -> list[PlannedImage]:
        """The images in their order, those with a new label at new targets."""
        free = FreeNames(Path(self.to))
        again = set(moved)
        kept = {k: image for k, image in edited.items() if k in given or (image.label and k not in again)}
        placed = {key: place(image, free, image.target, self.tags) for key, image in kept.items()}
        for key, image in kept.items():  # the name that the plan had to avoid is still avoided
            if placed[key].target == image.target:
                placed[key] = replace(placed[key], conflict=image.conflict)
        for key in moved:
            image, pattern = edited[key], Pattern(self.pattern)
            date = datetime.fromisoformat(image.date) if image.date else None
            if image.label:
                placed[key] = place(image, free, pattern.target(image.label, image.image, date), self.tags)
        return [placed.get(image_cell(each.image)) or _staying(edited[image_cell(each.image)]) for each in self.images]


def _staying(image: PlannedImage) -> PlannedImage:
    return replace(image, target="", companions={}, sidecar="", conflict="")


def place(image: PlannedImage, free: FreeNames, wanted: str, tags: Sequence[str] = ()) -> PlannedImage:
    """An image at a free target, with its companions beside it, and a new sidecar where keywords need one."""
    name, target_name = os.path.basename(image.image), PurePosixPath(wanted).name
    stem = PurePosixPath(target_name).stem
    following = [companion_target(name, each, target_name)[len(stem) :] for each in image.companions]
    needs_sidecar = "xmp" in tags and not any(each.lower().endswith(".xmp") for each in image.companions)
    own = [f"{PurePosixPath(target_name).suffix}.xmp"] if needs_sidecar else []
    target, companions = free.take(wanted, following + own)
    conflict = "" if target == wanted else f"{wanted} is taken"
    return replace(
        image,
        target=target,
        companions=dict(zip(image.companions, companions, strict=False)),
        sidecar=companions[-1] if needs_sidecar else "",
        conflict=conflict,
    )


def _check_columns(table: Path, columns: list[str]) -> None:
    """Raise UserError for a table that lacks a column, perhaps because it was renamed."""
    if missing := [name for name in ("image", "label") if name not in columns]:
        raise UserError(f"{table} has no column {missing[0]!r}")
    unknown = [name for name in columns if name and name not in _COLUMNS]
    if unknown and "target" not in columns:
        raise UserError(f"{table} has the column {unknown[0]!r}, and no column 'target': was it renamed?")


def _checked_target(target: str, where: str) -> str:
    """A target that a person has written, in its shortest form."""
    parts = PurePosixPath(target).parts
    if target.startswith("/") or target.endswith("/") or ".." in parts or not parts or "\0" in target:
        raise UserError(f"{where}: the target {target!r} is not the path of a file below to")
    return "/".join(parts)


def image_cell(image: str) -> str:
    """A path as `plan.csv` shows it, without the `./` of one that a spreadsheet would take for a formula."""
    text = image.encode(errors="backslashreplace").decode()
    return text.removeprefix("./")
