"""The results of a run as bytes, for scripts and tests that compare runs bit for bit."""

from pathlib import Path

import torch


def outcome(folder: Path) -> dict[str, bytes]:
    """The weights of both checkpoints and the files with metrics of a finished run, by name."""
    assert (folder / "metrics.json").exists(), "it is finished"
    found = {name: (folder / name).read_bytes() for name in ("metrics.csv", "metrics.json", "predictions.csv")}
    for name in ("best", "last"):
        state = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        found |= {f"{name} {key}": tensor.numpy().tobytes() for key, tensor in state.items()}
    return found
