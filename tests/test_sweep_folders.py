"""The folders of a sweep's jobs: nested ones are read, shared ones are refused; a trial's lock ends with the trial."""

import json
import os
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution

from commands import try_command
from conftest import FAST, assert_error_line
from sports_lightning.sweeps.jobs import SweepJob
from sports_lightning.sweeps.resume import check_sweep_folder, job_folders
from sports_lightning.sweeps.summary import read_results, write_table
from sports_lightning.sweeps.trials import Trials

SPACE = {"x": FloatDistribution(0, 1)}
SETTINGS = OmegaConf.create(
    {"n_trials": 40, "seed": 0, "study": "s", "sampler": {"_target_": "optuna.samplers.RandomSampler"}}
)


def write_job(folder: Path, overrides: list[str], accuracy: float) -> None:
    """The files of a finished run that the table of its sweep needs."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra/overrides.yaml")
    (folder / "metrics.json").write_text(json.dumps({"val": {"acc": accuracy, "ci95": {"acc": [0.0, 1.0]}}}))
    (folder / "run.json").write_text(json.dumps({"seconds": 1.0}))


def test_nested_job_folders_are_part_of_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OmegaConf.save({"hydra": {"runtime": {"config_sources": []}}}, tmp_path / "multirun.yaml")
    write_job(tmp_path / "model=a/b,seed=0", ["model=a/b", "seed=0"], 0.5)
    write_job(tmp_path / "model=c,seed=0", ["model=c", "seed=0"], 0.75)
    assert list(job_folders(tmp_path)) == [tmp_path / "model=a/b,seed=0", tmp_path / "model=c,seed=0"]
    assert [result.name for result in read_results(tmp_path)] == ["model=c,seed=0", "model=a/b,seed=0"]
    write_table(tmp_path)
    best = "best accuracy on val, as a single run: python -m sports_lightning.train model=c seed=0"
    assert best in capsys.readouterr().out
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 3
    with pytest.raises(Exception, match="holds a sweep"):
        check_sweep_folder(tmp_path, is_resumable=True)


def test_a_pruned_job_is_listed_by_its_accuracy(tmp_path: Path) -> None:
    OmegaConf.save({"hydra": {"runtime": {"config_sources": []}}}, tmp_path / "multirun.yaml")
    for name, pruned in {"0": {"epoch": 1, "value": 2.5, "val/acc": 0.25}, "1": {"epoch": 1, "value": 0.5}}.items():
        write_job(tmp_path / name, ["seed=0"], 0.0)
        (tmp_path / name / "metrics.json").unlink()
        (tmp_path / name / "pruned.json").write_text(json.dumps(pruned))
    assert [(result.name, result.accuracy) for result in read_results(tmp_path)] == [("1", 0.5), ("0", 0.25)]


@pytest.mark.parametrize(
    ("subdir", "said"),
    [
        ("${model.name}", "jobs 0 and 1 share simple_cnn"),
        ("run_${hydra.job.name}", "jobs 0 and 1 share run_train"),
        ("/elsewhere/${hydra.job.num}", "/elsewhere/0 is not inside the sweep folder"),
        ("../${seed}", "../0 is not inside the sweep folder"),
    ],
)
def test_jobs_that_would_share_a_folder_are_refused_before_the_first(subdir: str, said: str, tmp_path: Path) -> None:
    arguments = [*FAST, "model=simple_cnn", "seed=0,1", f"hydra.sweep.subdir='{subdir}'", "hydra.sweep.dir=sweep"]
    assert_error_line(try_command("train", "-m", *arguments), said, "hydra.sweep.subdir")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra.sweep.dir=finished"], "finished holds runs"),
        (["hydra.sweep.dir=.", "hydra.sweep.subdir=finished"], "holds runs"),
        (["hydra.sweep.dir=new", "hydra.output_subdir=null"], "hydra.output_subdir"),
    ],
)
def test_a_sweep_never_writes_into_a_finished_run(arguments: list[str], said: str, tmp_path: Path) -> None:
    write_job(tmp_path / "finished", ["seed=0"], 0.5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert_error_line(try_command("train", "-m", *FAST, *arguments), said)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_search_names_its_folders_itself() -> None:
    result = try_command("train", *FAST, "sweep=optuna", "hydra.sweep.subdir='${seed}'")
    assert_error_line(result, "leave out hydra.sweep.subdir")


def test_a_trial_s_lock_is_released_when_it_is_told(tmp_path: Path) -> None:
    """Otherwise a long search would run out of open files."""
    study = optuna.create_study()
    study.set_metric_names(["val/acc"])
    trials = Trials(study, SPACE, SETTINGS, tmp_path)
    descriptors = len(os.listdir("/dev/fd"))
    while trial := trials.next():
        folder = tmp_path / str(trial[0])
        if trial[0] % 2:
            write_job(folder, [], 0.5)
        trials.tell(trial[0], SweepJob(folder, [], 0 if trial[0] % 2 else 1))
    assert len(study.trials) == 40
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "FAIL"}
    assert len(os.listdir("/dev/fd")) == descriptors


def test_an_interrupted_trial_is_not_started_again_by_the_same_process(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.set_metric_names(["val/acc"])
    trials = Trials(study, SPACE, SETTINGS, tmp_path)
    number, params = trials.next() or (-1, {})
    trials.tell(number, SweepJob(tmp_path / "0", [], 143))
    assert (trials.next() or (-1,))[0] == number + 1
    # In another process, which holds none of the locks, the interrupted trial comes first.
    assert Trials(study, SPACE, SETTINGS, tmp_path).next() == (number, params)
