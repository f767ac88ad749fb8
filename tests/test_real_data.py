"""Training on real photographs with real ImageNet weights of tf_efficientnet_lite0, if they are available."""

import json
import os
from pathlib import Path

import pytest

from commands import run_command

SHARED = Path(__file__).parents[2] / "shared"
IMAGES = Path(os.environ.get("SPORTS_LIGHTNING_REAL_DATA", SHARED / "data/sports100-mini")).absolute()
WEIGHTS = Path(
    os.environ.get("SPORTS_LIGHTNING_REAL_WEIGHTS", SHARED / "weights/tf_efficientnet_lite0.in1k.safetensors")
).absolute()

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (IMAGES.is_dir() and WEIGHTS.is_file()),
        reason="set SPORTS_LIGHTNING_REAL_DATA=FOLDER (with train/ and valid/) and SPORTS_LIGHTNING_REAL_WEIGHTS=FILE",
    ),
]


@pytest.fixture(scope="module")
def ten_sports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of the real images."""
    root = tmp_path_factory.mktemp("real")
    names = sorted(path.name for path in (IMAGES / "train").iterdir())[::10][:10]
    for split in ("train", "valid"):
        (root / split).mkdir()
        for name in names:
            (root / split / name).symlink_to(IMAGES / split / name)
    return root


def test_a_linear_head_on_real_weights_classifies_real_sports(ten_sports: Path, tmp_path: Path) -> None:
    result = run_command(
        "train",
        "experiment=head",
        f"data.root={ten_sports}",
        f"model.weights={WEIGHTS}",
        "test=false",
        "logger=csv",
        "data.batch_size=32",
    )
    metrics = json.loads(Path(result.last_line, "metrics.json").read_text())
    assert metrics["val"]["acc"] >= 0.9
