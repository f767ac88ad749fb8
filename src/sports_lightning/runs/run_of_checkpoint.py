"""What the run folder of a checkpoint says about it."""

import json
from pathlib import Path
from typing import Any

from sports_lightning.storage.files import DAMAGED, checkpoint_file

BEST = "best.ckpt"  # the one that metrics and model card of a run are of


def find_run_folder(ckpt_path: str) -> Path | None:
    """The folder of the run that wrote a checkpoint; None if the checkpoint was moved out of it."""
    path = checkpoint_file(ckpt_path).absolute()
    folder = path.parent.parent
    is_inside = path.parent.name == "checkpoints" and (folder / ".hydra" / "config.yaml").is_file()
    return folder if is_inside else None


def read_metrics(ckpt_path: str) -> dict[str, Any]:
    """{split: metrics} of `metrics.json`, which are those of best.ckpt; empty for another checkpoint."""
    folder = find_run_folder(ckpt_path)
    if folder is None or checkpoint_file(ckpt_path).name != BEST:
        return {}
    try:
        return dict(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
    except DAMAGED:
        return {}
