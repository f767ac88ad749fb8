"""Checkpoint files: written whole or not at all, and read without ever running code from them."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from sports_lightning.errors import UserError
from sports_lightning.storage.files import write_bytes

REMEDY = "pass one that python -m sports_lightning.train wrote"


def load_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """The tensors and plain data of a checkpoint, on the CPU; torch refuses a file with anything else in it.

    Args:
        path: the file.
        mapped: leave the tensors in it, for a look at what else it says.

    Raises:
        UserError: not a checkpoint, damaged, or one that would run code.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the unpickler raises whatever the bytes of a foreign file lead it into
        raise UserError(f"{path} is not a checkpoint, or a damaged one; {REMEDY}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is not a checkpoint of sports_lightning; {REMEDY}")
    return checkpoint


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write `path` whole, or leave what is there.

    Raises:
        NotWritten: no room, or no right to.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getbuffer())


class AtomicCheckpointIO(TorchCheckpointIO):
    """The above for Lightning. Weights that are no longer numbers do not take the place of good ones."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `path` whole, or leave what is there.

        Raises:
            NotWritten: no room, or no right to.
            UserError: weights are infinite or not a number.
        """
        for name, tensor in checkpoint["state_dict"].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(
                    f"training went wrong: {name} is infinite or not a number, and {path} stays as it was; "
                    f"a smaller optimizer.lr or trainer.gradient_clip_val=1.0 may help"
                )
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """On the CPU, without running code from it, whatever else is asked for.

        Paths that callbacks have stored follow the checkpoint where its run folder was moved.
        """
        checkpoint = load_checkpoint(Path(path))
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and isinstance(state.get("dirpath"), str):  # a ModelCheckpoint's
                state.update(_moved(state, state["dirpath"], os.path.realpath(Path(path).parent)))
        return checkpoint


def _moved(value: Any, old: str, new: str) -> Any:
    """`value` with the folder `old` replaced by `new` in all paths."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(item, old, new) for key, item in value.items()}
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value
