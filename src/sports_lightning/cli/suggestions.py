"""What a user may have meant by a key or an option that does not exist."""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import hydra
from omegaconf import OmegaConf

from sports_lightning import CONF_DIR
from sports_lightning.config.overrides import quote_value

_MOST = 3  # suggestions

# Names of other tools for keys of this one that are not spelled alike.
_OTHER_NAMES = {
    "arch": "model.name",
    "backbone": "model.name",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "checkpoint": "ckpt_path",
    "checkpoint_path": "ckpt_path",
    "ckpt": "ckpt_path",
    "data_dir": "data.root",
    "device": "trainer.accelerator",
    "epoch": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "gpus": "trainer.devices",
    "img_size": "model.image_size",
    "imgsz": "model.image_size",
    "learning_rate": "optimizer.lr",
    "num_epochs": "trainer.max_epochs",
    "output_dir": "hydra.run.dir",
    "workers": "data.num_workers",
}


@cache
def known_keys(command: str) -> tuple[str, ...]:
    """The keys of a command's config, in its order."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return tuple(_keys(OmegaConf.to_container(hydra.compose(command), resolve=False)))


def similar_keys(name: str, known: Iterable[str]) -> list[str]:
    """The keys that `name` may stand for: those of that last part, another tool's name for one, or similar ones."""
    keys = dict.fromkeys(known)
    name = name.replace("-", "_")
    if exact := [key for key in keys if key.rpartition(".")[2] == name]:
        return exact[:_MOST]
    group, _, last = name.rpartition(".")
    other = _OTHER_NAMES.get(last.lower(), "")
    if other in keys or other.startswith("hydra."):
        return [other]
    if group in keys:  # whole names in the same group resemble each other by the group alone
        siblings = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == group}
        if close := difflib.get_close_matches(last, siblings, n=1):
            return [siblings[close[0]]]
    elif close := difflib.get_close_matches(name, keys, n=1):
        return close
    leaves = difflib.get_close_matches(last, {key.rpartition(".")[2] for key in keys}, n=_MOST, cutoff=0.75)
    return [key for leaf in leaves for key in keys if key.rpartition(".")[2] == leaf][:_MOST]


def did_you_mean(names: Iterable[str]) -> str:
    """The question that names the suggestions; "" if there are none."""
    listed = " or ".join(names)
    return f"Did you mean {listed}?" if listed else ""


def similar_choice(name: str, choices: Iterable[str]) -> list[str]:
    """The choice that is spelled most alike, if any is."""
    return difflib.get_close_matches(name, list(choices), n=1)


def quoted(key: str, value: str) -> str:
    """The setting `key=value` with a literal value, to be pasted into a shell."""
    setting = f"{key}={quote_value(value)}"
    return f'"{setting}"' if "'" in setting and not re.search(r'["$`\\!]', setting) else shlex.quote(setting)


def own_images(folder: str) -> str:
    """What to write instead of `data=FOLDER`."""
    return f"{folder} is not a config of data: for your own images, pass data=folder {quoted('data.root', folder)}"


def own_config(file: str) -> str:
    """What to write instead of the path of a config file."""
    return (
        f"{file} is not a setting: to use a config of your own, choose it in its group, as in "
        f"--config-dir=FOLDER experiment=NAME for FOLDER/experiment/NAME.yaml"
    )


def is_group(name: str) -> bool:
    """Whether `name` is a config group, such as `model`."""
    return bool(re.fullmatch(r"\w+", name)) and (CONF_DIR / name).is_dir()


def _keys(tree: object, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")
