"""The config of a run with its "auto" values resolved: a copy, so that the composed config is not modified."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sports_lightning.config.trees import map_strings

_RUN_FOLDER = "${hydra:runtime.output_dir}"


def training_splits(cfg: DictConfig) -> list[str]:
    """The splits that a run of `conf/train.yaml` reads."""
    return ["train", "val", "test"] if cfg.test else ["train", "val"]


def resolve(cfg: DictConfig, values: Mapping[str, Any], folder: Path | None = None) -> DictConfig:
    """Return a copy of `cfg` in which `values` replace "auto" and other open settings.

    Args:
        cfg: `conf/train.yaml`; it is not modified.
        values: by dotted key, such as {"data.batch_size": 64}.
        folder: the run folder, which replaces `${hydra:runtime.output_dir}`, so that the copy can be used without
            Hydra.
    """
    tree: Any = OmegaConf.to_container(cfg, resolve=False)
    if folder is not None:
        quoted = str(folder).replace("${", r"\${")
        tree = map_strings(lambda text: text.replace(_RUN_FOLDER, quoted), tree)
    resolved = OmegaConf.create(tree)
    if resolved.inference.accelerator == "auto":  # otherwise a training on a CPU would be evaluated on a GPU
        resolved.inference.accelerator = resolved.trainer.accelerator
    for key, value in values.items():
        OmegaConf.update(resolved, key, value, merge=False)
    OmegaConf.set_struct(resolved, True)
    return resolved
