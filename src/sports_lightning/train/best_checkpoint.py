"""`best.ckpt`: the checkpoint with the best metric, whatever further checkpoints a run keeps."""

import os
import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from sports_lightning.errors import UserError
from sports_lightning.runs.checkpoint_files import load_checkpoint
from sports_lightning.train.last_checkpoint import LastCheckpoint

_LIGHTNING = "pytorch_lightning.callbacks."
_FURTHER = ("save_top_k", "every_n_epochs", "save_on_train_epoch_end")  # settings of further checkpoints only


class FurtherCheckpoints(ModelCheckpoint):
    """Checkpoints next to `best.ckpt`, such as those of the three best epochs."""

    @property
    def state_key(self) -> str:
        """Distinct for other names, so that a run can have several of these callbacks; the same in a moved run."""
        return f"{super().state_key}{Path(self.dirpath or '').name}/{self.filename}"

    def file_exists(self, filepath: str | Path, trainer: pl.Trainer) -> bool:
        """Whether a checkpoint has to be written under another name.

        One that the run itself has written at this step is overwritten: it was killed then, before `last.ckpt` knew of
        the file.
        """
        is_other = trainer.is_global_zero and Path(filepath).exists() and not _is_left_over(Path(filepath), trainer)
        return trainer.strategy.reduce_boolean_decision(is_other, all=False)


def _is_left_over(path: Path, trainer: pl.Trainer) -> bool:
    """Whether this run has written the checkpoint at its present step, but no callback knows of it."""
    callbacks = trainer.checkpoint_callbacks
    kept = [each for each in callbacks if isinstance(each, ModelCheckpoint)]
    if any(str(path) in (*each.best_k_models, each.best_model_path) for each in kept):
        return False
    try:
        checkpoint = load_checkpoint(path, mapped=True)
    except UserError:  # of another program
        return False
    last = next(each for each in callbacks if isinstance(each, LastCheckpoint))
    states = checkpoint.get("callbacks", {})  # not in a checkpoint of weights only
    folder = states.get(last.state_key, {}).get("folder", os.path.realpath(path.parent))
    return bool(checkpoint.get("global_step") == trainer.global_step and folder == last.folder)


def build_checkpoints(name: str, node: DictConfig, folder: Path) -> list[Any]:
    """Instantiate a callback; Lightning's `ModelCheckpoint` may become two, for `best.ckpt` and further checkpoints.

    Args:
        name: of the callback. `best` writes `best.ckpt` in any case; its settings may ask for further checkpoints.
        node: its config.
        folder: of the run's checkpoints.
    """
    is_checkpoint = str(node.get("_target_")).startswith(_LIGHTNING) and node._target_.endswith(".ModelCheckpoint")
    if not is_checkpoint:
        return [instantiate(node, _convert_="all")]
    if name != "best":
        return [_further(node, node.get("filename"), node.get("dirpath") or folder, {})]
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=node.monitor,
        mode=node.mode,
        save_weights_only=node.get("save_weights_only", False),
        enable_version_counter=False,
    )
    filename, place = node.get("filename"), Path(node.get("dirpath") or folder)
    keeps_further = any(node.get(setting, 1) not in (1, None) for setting in _FURTHER)
    if node.get("save_top_k") == 0 or not (keeps_further or filename != "best" or place != folder):
        return [best]
    if filename == "best":
        filename = f"{{epoch:02d}}-{{{node.monitor}:.4f}}"
    return [best, _further(node, filename, place, {"enable_version_counter": True})]


def _further(node: DictConfig, filename: str | None, folder: Path | str, settings: dict[str, Any]) -> ModelCheckpoint:
    if filename and node.get("auto_insert_metric_name", True):
        # As Lightning does it, but the slash of val/acc would start a folder.
        filename = re.sub(r"\{([^:}]*)", lambda found: f"{found[1].replace('/', '_')}={{{found[1]}", filename)
        settings = {**settings, "auto_insert_metric_name": False}
    target = f"{FurtherCheckpoints.__module__}.{FurtherCheckpoints.__qualname__}"
    changed = {"_target_": target, "filename": filename, "dirpath": str(folder), **settings}
    further: ModelCheckpoint = instantiate(node, **changed, _convert_="all")
    return further
