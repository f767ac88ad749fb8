"""The config of a run with its "auto" values resolved: a copy, so that the composed config is not modified."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

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
    resolved = OmegaConf.create(tree if folder is None else _with_run_folder(tree, folder))
    for key, value in values.items():
        OmegaConf.update(resolved, key, value, merge=False)
    OmegaConf.set_struct(resolved, True)
    return resolved


def _with_run_folder(tree: Any, folder: Path) -> Any:
    if isinstance(tree, dict):
        return {key: _with_run_folder(value, folder) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_run_folder(value, folder) for value in tree]
    if isinstance(tree, str):
        return tree.replace(_RUN_FOLDER, str(folder).replace("${", r"\${"))
    return tree
