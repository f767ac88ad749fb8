"""Continuing a run: a new run that starts from the last checkpoint of another one, for more epochs (`ckpt_path`)."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sports_lightning.errors import UserError
from sports_lightning.runs.provenance import differences, flatten
from sports_lightning.runs.resume import LAST_CHECKPOINT, load_config

# Settings that the weights, the state of the optimizer, or its count of steps depends on.
_FIXED = (
    *("model.name", "model.arguments", "model.crop_mode", "finetune", "data.batch_size", "data.value_range"),
    *("trainer.accumulate_grad_batches", "trainer.limit_train_batches"),
    *("optimizer.name", "optimizer.weight_decay", "optimizer.layer_decay", "optimizer.arguments"),
)


def continued_checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint that `ckpt_path` names, a run folder or its `last.ckpt`; None if it is null.

    Args:
        cfg: `conf/train.yaml`.

    Raises:
        UserError: it is not a `last.ckpt` in a run folder, or its run had settings that have to stay the same.
    """
    if cfg.get("ckpt_path") is None:  # no key of earlier versions
        return None
    given = Path(os.path.abspath(Path(cfg.ckpt_path).expanduser()))
    places = (given, given / LAST_CHECKPOINT, given.parent / LAST_CHECKPOINT.parent / given.name)
    path = next((place for place in places if os.path.isfile(place)), given)
    if not path.is_file() or path.name != LAST_CHECKPOINT.name:
        raise UserError(
            f"ckpt_path={cfg.ckpt_path} is not the last.ckpt of a run, from which training can continue: pass "
            f"RUN_FOLDER/{LAST_CHECKPOINT}; to start from the weights of another checkpoint, use model.weights=FILE"
        )
    _check_settings(path, cfg)
    return path


def _check_settings(path: Path, cfg: DictConfig) -> None:
    before, now = flatten(load_config(path.parents[1])), flatten(OmegaConf.to_container(cfg))
    for key, (old, new) in differences(before, now).items():
        if f"{key}.".startswith(tuple(f"{fixed}." for fixed in _FIXED)):
            raise UserError(
                f"ckpt_path={path} was trained with {key}={old}, not {new}: restore it to continue the run, or start a "
                f"new run from its weights with model.weights={path.with_name('best.ckpt')}"
            )
