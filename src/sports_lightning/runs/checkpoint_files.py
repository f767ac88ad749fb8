"""Checkpoint files: written atomically, and read without running code from them."""

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
    """Load a checkpoint to the CPU. It may hold only tensors and plain data (`weights_only=True`).

    Args:
        path: the file.
        mapped: memory-map the tensors instead of reading them, to read only the metadata.

    Raises:
        UserError: the file is not a checkpoint, is damaged, or would run code.
        PermissionError: the file may not be read.
    """
    try:
        mapped = mapped and str(path).isprintable()  # torch maps no file whose path is not UTF-8
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except PermissionError:
        raise
    except Exception as error:  # the unpickler may raise anything on a damaged or foreign file
        raise UserError(f"{path} is not a checkpoint or is damaged; {REMEDY}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is not a checkpoint of sports_lightning; {REMEDY}")
    return checkpoint


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically.

    Raises:
        WriteFailed: the disk is full or not writable; the old file is unchanged.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getbuffer())


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint reader and writer with the functions above; refuses to save non-finite weights."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint atomically.

        Raises:
            WriteFailed: the disk is full or not writable; the old file is unchanged.
            UserError: a weight is infinite or not a number.
        """
        for name, tensor in checkpoint["state_dict"].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(
                    f"training diverged: {name} is infinite or not a number, and {path} was not overwritten; "
                    f"a smaller optimizer.lr or trainer.gradient_clip_val=1.0 may help"
                )
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Load to the CPU without running code from the file; other arguments are ignored.

        If the run folder was moved, the paths that Lightning's ModelCheckpoint stores are replaced by the new ones.
        """
        checkpoint = load_checkpoint(Path(path))
        states = [state for state in checkpoint.get("callbacks", {}).values() if isinstance(state, dict)]
        before = next((state["folder"] for state in states if "folder" in state), None)  # LastCheckpoint's
        for state in states:
            if isinstance(state.get("dirpath"), str):  # a ModelCheckpoint's
                state.update(_moved(state, before or state["dirpath"], os.path.realpath(Path(path).parent)))
        return checkpoint


def _moved(value: Any, old: str, new: str) -> Any:
    """`value` with the folder `old` replaced by `new` in all paths."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(item, old, new) for key, item in value.items()}
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value
