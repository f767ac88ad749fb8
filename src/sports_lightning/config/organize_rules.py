"""Combinations of settings of `conf/organize.yaml` that cannot work."""

import os
from typing import Any

from sports_lightning.config.rule import Rule
from sports_lightning.config.rules import IN_STATED_PRECISION

_PLANNING = ("ckpt_path", "input", "to")


def _lies_in(folder: Any, other: Any) -> bool:
    if not folder or not other:
        return False
    inner, outer = (os.path.realpath(os.path.expanduser(str(path))) for path in (folder, other))
    return f"{inner}{os.sep}".startswith(f"{outer.rstrip(os.sep)}{os.sep}")


ORGANIZE = (
    Rule(
        ("plan", "undo", *_PLANNING),
        lambda plan, undo, *planning: not plan and not undo and None in planning,
        "organize needs ckpt_path=RUN input=PHOTOS to=SORTED to make a plan, plan=RUN_FOLDER to check one (and "
        "apply=true to apply it), or undo=RUN_FOLDER",
    ),
    Rule(
        ("plan", "undo", *_PLANNING),
        lambda plan, undo, *planning: (plan or undo) and any(planning),
        "plan= and undo= know the folders already: leave out ckpt_path, input and to",
    ),
    Rule(("plan", "undo"), lambda plan, undo: plan and undo, "plan={0} and undo={1}: one at a time"),
    Rule(("undo", "apply"), lambda undo, apply: undo and apply, "undo={0} and apply=true: one at a time"),
    Rule(
        ("input",),
        lambda folder: folder and not os.path.isdir(os.path.expanduser(str(folder))),
        "input={0} is not a folder",
    ),
    Rule(
        ("to", "input"), _lies_in, "to={0} is in input={1}, so that sorted images would be sorted again: choose another"
    ),
    IN_STATED_PRECISION,
)
