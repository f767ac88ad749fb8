"""On real photographs and real ImageNet weights, where they lie beside the checkout."""

import json
from pathlib import Path

import pytest

from commands import command

SHARED = Path(__file__).parents[2] / "shared"
PICTURES = SHARED / "data" / "sports100-mini"
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.in1k.safetensors"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (PICTURES.is_dir() and WEIGHTS.is_file()), reason="no real images beside the checkout"),
]


@pytest.fixture(scope="module")
def ten_sports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of the real images, 20 to train and 5 to validate on each."""
    root = tmp_path_factory.mktemp("real")
    names = sorted(path.name for path in (PICTURES / "train").iterdir())[::10]
    for split in ("train", "valid"):
        (root / split).mkdir()
        for name in names:
            (root / split / name).symlink_to(PICTURES / split / name)
    return root


def test_a_linear_head_on_real_weights_tells_real_sports_apart(ten_sports: Path, tmp_path: Path) -> None:
    result = command(
        "train",
        "experiment=head",
        f"data.root={ten_sports}",
        f"model.weights={WEIGHTS}",
        "test=false",
        "logger=csv",
        "data.batch_size=32",
        cwd=tmp_path,
    )
    metrics = json.loads((tmp_path / result.stdout.strip().splitlines()[-1] / "metrics.json").read_text())
    assert metrics["val"]["acc"] >= 0.9
