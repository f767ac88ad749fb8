"""Weight files of any trainer: read without running code from them, and reduced to the weights of the network."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from sports_lightning.errors import UserError

# Where trainers keep the weights in a checkpoint: averaged weights first, as timm does.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net", "weights")


def read_weight_file(path: Path) -> dict[str, Any]:
    """The content of a .safetensors file or of one that torch.save wrote: tensors and plain data, on the CPU.

    Raises:
        UserError: no such file, a damaged one, or one that would have to run code.
    """
    if not path.is_file():
        raise UserError(f"model.weights={path} is not a file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, safetensors and pickle each raise their own errors for other files
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"model.weights={path} holds a Python object ({foreign[1]}), which could run any code: save its "
                f"weights alone, torch.save(model.state_dict(), FILE)"
            ) from error
        raise UserError(f"model.weights={path} can't be read as weights ({_first_sentence(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"model.weights={path} holds a {type(content).__name__}, not the weights of a model by name")
    return content


def network_state(content: Mapping[str, Any], names: Collection[str]) -> dict[str, Tensor]:
    """The weights of a network in the content of a weight file.

    Args:
        content: the weights by name, or a checkpoint that holds them beside other things.
        names: the names of the weights in the network. The prefix with which most of them are found is removed, such as
            `model.` of a Lightning module, `module.` of DDP or `_orig_mod.` of torch.compile.
    """
    inner = [content[key] for key in _KEYS if isinstance(content.get(key), Mapping)]
    state = {str(key).replace("_orig_mod.", ""): value for key, value in (inner or [content])[0].items()}
    found = Counter(prefix for key in state for prefix in _prefixes(key) if key[len(prefix) :] in names)
    prefix = found.most_common(1)[0][0] if found else ""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }


def _prefixes(key: str) -> list[str]:
    """ "", "a.", "a.b." for "a.b.c"."""
    return ["", *accumulate(f"{part}." for part in key.split(".")[:-1])]


def _first_sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}"[:300]
