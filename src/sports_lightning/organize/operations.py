"""The operations that carry out a plan."""

import base64
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from sports_lightning.errors import UserError
from sports_lightning.organize.file_operations import MOVE, WRITE, Operation, content_digest
from sports_lightning.organize.plan import NONE, PERSON, SURE, UNSURE, Plan, PlannedImage
from sports_lightning.organize.targets import folded
from sports_lightning.organize.xmp import below_root, with_keyword
from sports_lightning.storage.files import write_csv

log = logging.getLogger(__name__)


def plan_operations(plan: Plan) -> list[Operation]:
    """What is done with every file of a plan.

    Raises:
        UserError: a file has changed since the plan, or a folder below `to` leads out of it.
    """
    operations = [operation for image in plan.images if image.target for operation in _of_image(plan, image)]
    _check_inside(plan, operations)
    _check_distinct(plan, operations)
    return operations


def write_keywords(plan: Plan, path: Path) -> None:
    """Write `tags.csv`, for programs that import keywords: a row per image that has a class."""
    rows = [
        [str(Path(plan.to, image.target)), image.label, below_root(image.label, "|")]
        for image in plan.images
        if _has_keyword(image)
    ]
    write_csv(path, ["path", "keyword", "hierarchical_keyword"], rows)


def _has_keyword(image: PlannedImage) -> bool:
    """Whether a class was decided for; a person writes "none" and "unsure" for the folders of this name."""
    by_person = image.decision == PERSON and image.label not in ("", UNSURE, NONE)
    return bool(image.target) and (image.decision == SURE or by_person)


def _of_image(plan: Plan, image: PlannedImage) -> Iterator[Operation]:
    folder = os.path.dirname(image.image)
    yield _operation(plan, image.image, image.target)
    has_sidecar = False
    for name, target in image.companions.items():
        path = os.path.join(folder, name)
        if "xmp" in plan.tags and name.lower().endswith(".xmp") and not has_sidecar and _has_keyword(image):
            tagged = _tagged(plan, path, target, image.label)
            has_sidecar = True
            yield tagged or _operation(plan, path, target)
        else:
            yield _operation(plan, path, target)
    if image.sidecar and _has_keyword(image):
        content = with_keyword(None, image.label)
        target = str(Path(plan.to, image.sidecar))
        encoded = base64.b64encode(content).decode()
        yield Operation(WRITE, "", target, content_digest(content), len(content), 0, content=encoded)


def _operation(plan: Plan, path: str, target: str) -> Operation:
    size, mtime, digest = plan.states[path]
    return Operation(
        plan.mode, str(Path(plan.input, path)), str(Path(plan.to, target)), str(digest), int(size), int(mtime)
    )


def _tagged(plan: Plan, path: str, target: str, label: str) -> Operation | None:
    """The operation for a sidecar that gets a keyword; None if it is no XMP, so that it is left as it is."""
    source = str(Path(plan.input, path))
    size, mtime, digest = plan.states[path]
    with open(source, "rb") as file:
        original = file.read()
    if content_digest(original) != digest:
        raise UserError(f"{source} has changed since the plan: plan again")
    try:
        content = with_keyword(original, label)
    except UserError as error:
        log.warning("%s gets no keyword: %s", source, error)
        return None
    encoded = [base64.b64encode(each).decode() for each in (content, original)]
    return Operation(
        WRITE, source, str(Path(plan.to, target)), content_digest(content), int(size), int(mtime),
        os.stat(source).st_mode & 0o7777, encoded[0], encoded[1] if plan.mode == MOVE else "",
    )  # fmt: skip


def _check_distinct(plan: Plan, operations: list[Operation]) -> None:
    """Raise UserError if two files would get one name, or one the name of a folder of another."""
    targets: set[str] = set()
    for operation in operations:
        if (name := folded(operation.target)) in targets:
            raise UserError(f"two files would become {operation.target}: change the target of one of them")
        targets.add(name)
    for operation in operations:
        for parent in Path(operation.target).parents:
            if parent == Path(plan.to):
                break
            if folded(str(parent)) in targets:
                raise UserError(f"{parent} would be a file and the folder of {operation.target}: change one of them")


def _check_inside(plan: Plan, operations: list[Operation]) -> None:
    to = os.path.realpath(plan.to)
    for folder in {os.path.dirname(operation.target) for operation in operations}:
        if os.path.commonpath([to, os.path.realpath(folder)]) != to:
            raise UserError(f"{folder} leads out of to={plan.to} by a link: remove the link")
