"""What comes out of a run, for the scripts here and the tests that compare runs to the last bit."""

from pathlib import Path

import torch


def outcome(folder: Path) -> dict[str, bytes]:
    """Every weight of both checkpoints, and the files of metrics of a finished run."""
    assert (folder / "metrics.json").exists(), "it is finished"
    found = {name: (folder / name).read_bytes() for name in ("metrics.csv", "metrics.json", "predictions.csv")}
    for name in ("best", "last"):
        state = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        found |= {f"{name} {key}": tensor.numpy().tobytes() for key, tensor in state.items()}
    return found
