"""Configs that an earlier version stored, or that use its keys, brought up to date. No torch in here."""

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any

# Key of version 0.1 → key of this version. The old keys are accepted for one release.
RENAMED_KEYS = {
    "augment.views": "augment.fixed_augmentations",
    "augment.sides": "augment.progressive_sizes",
    "finetune.keep_gb": "finetune.cache_limit_gb",
    "inference.mirror": "inference.flip_tta",
}

# Keys of version 0.1 that never had an effect. They are accepted for one release.
DROPPED_KEYS = ("callbacks.best.enable_version_counter",)

# Keys that a config of an earlier version lacks, with their defaults. They are added where their group exists; to
# arguments of a class only if it is this one.
_NEW_KEYS: dict[str, Any] = {
    "data.max_pixels": 89_478_485,
    "data.value_range": "auto",
    "model.crop_mode": None,
    "augment.transforms.fit.mean": "${augment.preprocessing.mean}",
    "callbacks.best.save_top_k": 1,
}
# Further ones, where `data` has the key "root".
_NEW_DATA_KEYS: dict[str, Any] = {
    "name": None,
    "subset": None,
    "revision": None,
    "classes": "top",
    "manifest": None,
    "manifest_columns": {"image": "image", "label": "label", "split": "split", "group": "group"},
    "split": {"val": 0.1, "test": "auto", "seed": 0, "previous": None},
    "folds": None,
    "fold": None,
    "suspects": None,
}
_CLASSES = (None, "sports_lightning.data.preprocessing.ResizeAndCrop", "pytorch_lightning.callbacks.ModelCheckpoint")

# Prefix of a `_target_` of version 0.1 → where the object is now.
_MOVED_TARGETS = {
    "sports_lightning.augment.": "sports_lightning.data.augment.",
    "sports_lightning.callbacks.": "sports_lightning.train.callbacks.",
    "sports_lightning.last_checkpoint.": "sports_lightning.train.last_checkpoint.",
    "sports_lightning.loggers.": "sports_lightning.train.loggers.",
    "sports_lightning.preprocessing.Fit": "sports_lightning.data.preprocessing.ResizeAndCrop",
}


def rename_notice(old: str) -> str:
    """Return the line that tells a user of the key `old` its new name."""
    return f"{old} is now called {RENAMED_KEYS[old]}; the old name will stop working in the next release"


def rename_config_keys(config: MutableMapping[str, Any]) -> list[str]:
    """Rename or drop the keys of version 0.1 in a config, in place. A renamed value replaces the one under the new key.

    Args:
        config: plain dicts, or a DictConfig to which keys may be added.

    Returns:
        A notice for each key that was renamed or dropped.
    """
    notices = []
    for old, new in RENAMED_KEYS.items():
        group, _, old_name = old.partition(".")
        section = config.get(group)
        if isinstance(section, MutableMapping) and old_name in section:
            section[new.partition(".")[2]] = section.pop(old_name)
            notices.append(rename_notice(old))
    for dropped in DROPPED_KEYS:
        section, name = _place(config, dropped)
        if isinstance(section, MutableMapping) and name in section:
            del section[name]
            notices.append(f"{dropped} has no effect; it will be unknown in the next release")
    return notices


def upgrade_config(config: Any) -> Any:
    """Return a stored config, as plain dicts and lists, in the form of this version.

    A config of this version is returned unchanged.
    """
    upgraded = _upgrade_targets(config)
    if isinstance(upgraded, dict):
        rename_config_keys(upgraded)
        _separate_batch_sizes(upgraded)
        _add_new_keys(upgraded)
    return upgraded


def _add_new_keys(config: dict[str, Any]) -> None:
    if "trainer" in config:  # of train
        config.setdefault("ckpt_path", None)
    for name, default in _NEW_KEYS.items():
        section, key = _place(config, name)
        if isinstance(section, dict) and section.get("_target_") in _CLASSES:
            section.setdefault(key, default)
    if "root" in (config.get("data") or {}):
        config["data"] = {**copy.deepcopy(_NEW_DATA_KEYS), **config["data"]}


def _place(config: Any, dotted: str) -> tuple[Any, str]:
    """The part of a config that holds a dotted key, None if there is none, and the key's last part."""
    *groups, key = dotted.split(".")
    for group in groups:
        config = config.get(group) if isinstance(config, MutableMapping) else None
    return config, key


def _upgrade_targets(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {
            key: _moved_target(value) if key == "_target_" else _upgrade_targets(value) for key, value in config.items()
        }
    if isinstance(config, list):
        return [_upgrade_targets(value) for value in config]
    return config


def _moved_target(target: Any) -> Any:
    for old, new in _MOVED_TARGETS.items():
        if isinstance(target, str) and target.startswith(old):
            return new + target.removeprefix(old)
    return target


def _separate_batch_sizes(config: dict[str, Any]) -> None:
    """Set `inference.batch_size` where version 0.1 used the training batch size that "auto" resolves to."""
    data, inference = config.get("data"), config.get("inference")
    if not isinstance(data, dict) or not isinstance(inference, dict):
        return
    if data.get("batch_size") == "auto" and inference.get("batch_size") == "${data.batch_size}":
        inference["batch_size"] = 32
