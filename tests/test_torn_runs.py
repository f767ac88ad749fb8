"""A torn file in a run folder is one line for whoever reads that run, and nothing for the readers of others."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pytest
from omegaconf import OmegaConf

from sports_lightning.api.run import open_run
from sports_lightning.compare.run_reader import read_runs
from sports_lightning.errors import UserError
from sports_lightning.reproduce.reproduction import read_record
from sports_lightning.runs.resume import LAST_CHECKPOINT, acquire_lock, find_interrupted
from sports_lightning.sweeps.jobs import SweepJob
from sports_lightning.sweeps.summary import read_results
from sports_lightning.sweeps.trials import Trials
from sports_lightning.train.last_checkpoint import read_resume_point
from test_sweep_folders import SETTINGS, SPACE

FINISHED = Path(__file__).parent / "data" / "version_0_1" / "finished"
FILES = [
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "metrics.json", "run.json", "metrics.csv"),
    *("predictions.csv", "pictures.csv.gz", "checkpoints/best.ckpt"),
]
GARBAGE = (".hydra/hydra.yaml", "metrics.csv", "run.json")


def read_everything(folder: Path) -> None:
    run = open_run(folder)
    for read in (lambda: run.metrics, lambda: run.provenance, lambda: run.predictions, lambda: run.best):
        with suppress(UserError):
            read()
    run.config  # noqa: B018


READERS: list[Callable[[Path], Any]] = [read_everything, read_record, lambda folder: read_runs([folder.parent])]
READERS.append(lambda folder: read_results(folder.parent))


@pytest.mark.parametrize("name", FILES)
def test_a_torn_file_is_at_most_one_line(tmp_path: Path, name: str) -> None:
    for run in ("whole", "torn"):
        shutil.copytree(FINISHED, tmp_path / run)
    shutil.copy(FINISHED.parent / "sweep" / "multirun.yaml", tmp_path)
    file = tmp_path / "torn" / name
    # Cut off, or overwritten.
    file.write_bytes(b"\0\xff{[\n" if name in GARBAGE else file.read_bytes()[: file.stat().st_size // 2])
    for read in READERS:
        with suppress(UserError):
            read(tmp_path / "torn")
    assert [run.folder.name for run in read_runs([tmp_path])[0]][-1] == "whole"
    assert [job.name for job in read_results(tmp_path)][-1] == "whole"


def test_a_trial_with_torn_metrics_fails(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.set_metric_names(["val/acc"])
    trials = Trials(study, SPACE, SETTINGS, tmp_path)
    number, _ = trials.next()  # type: ignore[misc]
    (tmp_path / "0").mkdir()
    (tmp_path / "0/metrics.json").write_text('{"val": {')
    trials.tell(number, SweepJob(tmp_path / "0", [], 0))
    assert study.trials[0].state.name == "FAIL"


def test_a_new_run_does_not_resume_a_torn_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = OmegaConf.create({"seed": 1})
    for run in ("new", "torn checkpoint", "torn config", "whole"):
        for folder in (".hydra", "checkpoints"):
            (tmp_path / run / folder).mkdir(parents=True)
        OmegaConf.save(cfg, tmp_path / run / ".hydra/config.yaml")
        if run != "new":
            (tmp_path / run / LAST_CHECKPOINT).write_bytes(b"PK\5\6" + bytes(18))  # an empty archive
    (tmp_path / "torn checkpoint" / LAST_CHECKPOINT).write_bytes(b"PK\3\4 torn")
    (tmp_path / "torn config/.hydra/config.yaml").write_text("seed: [1")
    with caplog.at_level(logging.WARNING):
        assert find_interrupted(cfg, tmp_path / "new", {}) == tmp_path / "whole"
    assert "torn checkpoint is not resumed: its last checkpoint is damaged" in caplog.text


def test_a_torn_last_checkpoint_leaves_the_best_weights(tmp_path: Path) -> None:
    last = tmp_path / LAST_CHECKPOINT
    last.parent.mkdir()
    last.write_bytes(b"PK\3\4 torn")
    with pytest.raises(UserError, match=r"last\.ckpt is not a checkpoint or is damaged.*; start a new run$"):
        read_resume_point(last, tmp_path)
    last.with_name("best.ckpt").write_bytes(b"PK\5\6" + bytes(18))  # an empty archive
    with pytest.raises(UserError, match=r"start a new run from its best weights so far: model\.weights=.*best\.ckpt$"):
        read_resume_point(last, tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_read_only_run_is_named(tmp_path: Path, number: int) -> None:
    with (
        patch("sports_lightning.runs.resume.FileLock.acquire", side_effect=OSError(number, os.strerror(number))),
        pytest.raises(UserError, match=r"is read-only: .*chmod.* copy it"),
    ):
        acquire_lock(tmp_path)
