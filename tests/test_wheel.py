"""An installed wheel works as a checkout does: the configs are inside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import FAST

ROOT = Path(__file__).parents[1]


def test_wheel_trains_in_an_empty_folder(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = build.build_wheel(str(tmp_path))
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", str(tmp_path / wheel), str(site)], check=True, capture_output=True
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "sports_lightning.train", *FAST, f"data.root={sample}", "debug=fast", "test=false"],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert (Path(result.stdout.strip().splitlines()[-1]) / "checkpoints/best.ckpt").is_file()
    where = "import sports_lightning.cli as cli; print(cli.CONF_DIR)"
    printed = subprocess.run(
        [sys.executable, "-c", where],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    ).stdout
    assert printed.strip() == str(site / "sports_lightning" / "conf")
