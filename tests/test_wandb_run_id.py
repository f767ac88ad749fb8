"""A resumed run continues its Weights & Biases run, whatever characters its id contains."""

from pathlib import Path

import pytest

from sports_lightning.train.loggers import tracked_run_id


@pytest.mark.parametrize("run_id", ["ab12cd34", "my-run-7", "run-20260101_000000-x", "-", "a_b.c"])
@pytest.mark.parametrize("mode", ["run", "offline-run"])
def test_the_complete_id_is_read_from_the_folder(tmp_path: Path, mode: str, run_id: str) -> None:
    assert tracked_run_id(tmp_path) is None
    folder = tmp_path / "wandb" / f"{mode}-20261126_212604-{run_id}"
    folder.mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run").symlink_to(folder)
    (tmp_path / "wandb" / "debug.log").touch()
    assert tracked_run_id(tmp_path) == run_id
