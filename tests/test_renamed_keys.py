"""Config keys of version 0.1 keep working, with a notice that names the new key."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf, open_dict

from conftest import composed
from sports_lightning.config.earlier_versions import RENAMED_KEYS, rename_config_keys, upgrade_config
from sports_lightning.config.overrides import rename_keys


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
@pytest.mark.parametrize("form", ["{}=4", "++{}=4", "+{}=4", "~{}", "changes.{}=4", "+changes.{}=4", "seed=${{{}}}"])
def test_an_old_key_on_the_command_line_becomes_the_new_one(old: str, new: str, form: str) -> None:
    arguments, notices = rename_keys(["-m", form.format(old), "data=sample"])
    assert arguments == ["-m", re.sub(r"^\+(?=\w)", "++", form.format(new)), "data=sample"]
    assert len(notices) == 1
    assert old in notices[0]
    assert new in notices[0]


def test_a_key_without_effect_is_accepted_and_dropped_with_a_notice(tmp_path: Path) -> None:
    (argument,), _ = rename_keys(["callbacks.best.enable_version_counter=true"])
    cfg = composed(tmp_path)
    with open_dict(cfg):
        OmegaConf.update(cfg, argument.lstrip("+").partition("=")[0], True)
        (notice,) = rename_config_keys(cfg)
    assert notice.startswith("callbacks.best.enable_version_counter has no effect")
    assert cfg == composed(tmp_path)
    assert argument.startswith("++")


@pytest.mark.parametrize(
    "argument", ["augment.viewsize=1", "data.root=augment.views", "my.augment.views=1", "augment.fixed_augmentations=1"]
)
def test_other_arguments_are_unchanged(argument: str) -> None:
    assert rename_keys([argument]) == ([argument], [])


@pytest.mark.parametrize("word", ["null", "none", "None", "false", "False", "no", "off", "[]"])
def test_a_word_for_none_is_accepted_for_a_group(word: str) -> None:
    given = [f"{group}={word}" for group in ("logger", "callbacks", "debug", "experiment")]
    assert rename_keys(given) == (["logger=none", "callbacks=none"], [])


def test_a_key_that_the_config_has_may_follow_a_plus() -> None:
    assert rename_keys(["+trainer.barebones=true", "+experiment=head"])[0] == [
        "++trainer.barebones=true",
        "+experiment=head",
    ]


def test_a_stored_config_of_version_0_1_is_upgraded() -> None:
    stored = {
        "data": {"batch_size": "auto"},
        "augment": {"views": 2, "sides": [[0, 64]], "transforms": {"flip": {"_target_": "sports_lightning.augment.F"}}},
        "finetune": {"mode": "full"},
        "inference": {"mirror": True, "batch_size": "${data.batch_size}"},
    }
    upgraded = upgrade_config(stored)
    assert upgraded == {
        "data": {"batch_size": "auto", "max_pixels": 89_478_485, "value_range": "auto"},
        "augment": {
            "fixed_augmentations": 2,
            "progressive_sizes": [[0, 64]],
            "transforms": {"flip": {"_target_": "sports_lightning.data.augment.F"}},
        },
        "finetune": {"mode": "full"},
        "inference": {"flip_tta": True, "batch_size": 32},
    }
    assert upgrade_config(upgraded) == upgraded
    assert "views" in stored["augment"], "the stored config itself is not changed"


@pytest.mark.parametrize("overrides", [[], ["experiment=head"], ["augment=strong"], ["callbacks=[default,ema]"]])
def test_a_config_without_the_new_keys_is_upgraded_to_one_of_this_version(overrides: list[str], tmp_path: Path) -> None:
    now = OmegaConf.to_container(composed(tmp_path, *overrides))
    assert upgrade_config(now) == now
    before: Any = copy.deepcopy(now)
    before.pop("ckpt_path")
    for group, names in (("data", ("max_pixels", "value_range")), ("model", ("crop_mode",))):
        for name in names:
            before[group].pop(name)
    before["callbacks"]["best"].pop("save_top_k")
    (before["augment"]["transforms"]["fit"] or {}).pop("mean", None)
    assert upgrade_config(before) == now
    own = {"augment": {"transforms": {"fit": {"_target_": "my.Fit"}}}, "callbacks": {"best": {"_target_": "my.Best"}}}
    assert upgrade_config(own) == own


def test_a_stored_batch_size_is_unchanged() -> None:
    stored = {"augment": {}, "inference": {"batch_size": 6}}
    assert upgrade_config(stored) == stored
    stored = {
        "data": {"batch_size": 6, "max_pixels": None, "value_range": [0, 1]},
        "inference": {"batch_size": "${data.batch_size}"},
    }
    assert upgrade_config(stored) == stored
