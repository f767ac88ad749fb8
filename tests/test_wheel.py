"""An installed wheel works as a checkout does: the configs are inside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import FAST

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_trains_in_an_empty_folder(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = build.build_wheel(str(tmp_path))
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", str(tmp_path / wheel), str(site)], check=True, capture_output=True
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run_command(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments], cwd=empty, env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
        assert "leaked" not in result.stderr, "a warning of a library at exit"
        return result.stdout.strip().splitlines()[-1]

    assert run_command("-c", "import sports_lightning; print(sports_lightning.CONF_DIR)") == str(
        site / "sports_lightning/conf"
    )
    folder = run_command("-m", "sports_lightning.train", *FAST, f"data.root={few}", "debug=fast", "test=false")
    assert (Path(folder) / "checkpoints/best.ckpt").is_file()
