"""sweep=optuna: the search space, resuming killed searches without losing or repeating a trial, and pruning."""

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from commands import jobs_in_this_process, run_command, try_command
from conftest import FAST, assert_error_line
from processes import Process, run_process
from sports_lightning.errors import UserError
from sports_lightning.sweeps import optuna_search
from sports_lightning.sweeps.pruning import ReportToSearch
from sports_lightning.sweeps.search_space import search_space
from sweeps import states

QUICK = [*FAST, "logger=csv", "data.num_workers=0", "data.audit=false", "test=false", "trainer.limit_train_batches=3"]


def test_overrides_become_a_search_space() -> None:
    space, fixed = search_space(
        ["a=tag(log,interval(1e-4,0.1))", "b=int(interval(1,9))", "c=range(2,8,2)", "d=x,y", "e=5", "f=1,2", "f=3"]
    )
    assert space == {
        "a": FloatDistribution(1e-4, 0.1, log=True),
        "b": IntDistribution(1, 9),
        "c": IntDistribution(2, 6, step=2),
        "d": CategoricalDistribution(("x", "y")),
    }
    assert fixed == ["e=5", "f=3"], "the last override counts"
    with pytest.raises(UserError, match="search space is empty"):
        search_space(["e=5"])


@pytest.mark.slow
def test_a_search_that_is_killed_resumes_without_losing_or_repeating_a_trial(few: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    arguments = [*QUICK, f"data.root={few}", "sweep=optuna", "sweep.parallel=2", f"hydra.sweep.dir={sweep}"]
    arguments += ["trainer.max_epochs=2", "hydra.sweeper.n_trials=3"]
    process = Process("train", *arguments)
    process.wait_for(sweep / "2/checkpoints/last.ckpt")
    process.kill()  # alone, as if memory had run out: its jobs keep running
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/metrics.json")}
    configs = {file: file.stat().st_mtime_ns for path in before for file in (path.parent / ".hydra").iterdir()}
    assert states(sweep)["RUNNING"] >= 1
    assert "holds a sweep" in try_command("train", *arguments).stderr
    another = Process("train", f"resume={sweep}")
    printed = run_command("train", f"resume={sweep}").stdout
    assert another.result().stderr == "", "two processes share one study"
    assert states(sweep) == {"COMPLETE": 3}
    assert sorted(path.parent.name for path in sweep.glob("*/metrics.json")) == ["0", "1", "2"]
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert all(path.stat().st_mtime_ns == then for path, then in configs.items())
    assert len((sweep / "sweep.csv").read_text().splitlines()) == 4
    assert {path.name for path in sweep.glob("*.png")} == {"history.png", "importance.png", "parallel_coordinates.png"}
    best = max(json.loads(path.read_text())["val"]["acc"] for path in sweep.glob("*/metrics.json"))
    with sqlite3.connect(sweep / "study.db") as database:
        assert database.execute("select max(value) from trial_values").fetchone() == (best,)
    (line,) = [line for line in printed.splitlines() if line.startswith("best accuracy on val, as a single run: ")]
    assert line.endswith(" hydra.mode=RUN"), "so that it is not a sweep"


def test_an_epoch_is_judged_by_its_last_validation(tmp_path: Path) -> None:
    reports: list[tuple[float, int]] = []
    callback = ReportToSearch(tmp_path, tmp_path, None, "val/loss", 0)
    callback.trial = SimpleNamespace(
        report=lambda value, step: reports.append((value, step)), should_prune=lambda: len(reports) == 2
    )
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer: Any = SimpleNamespace(strategy=strategy, current_epoch=0, should_stop=False)
    for epoch, losses in enumerate(([3.0, 2.0], [], [1.5, 1.0])):
        trainer.current_epoch = epoch
        for loss in losses:
            trainer.callback_metrics = {"val/loss": torch.tensor(loss), "val/acc": torch.tensor(0.5)}
            callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
        callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert reports == [(2.0, 0), (1.0, 2)]
    assert trainer.should_stop
    assert callback.pruned == {"epoch": 2, "value": 1.0, "val/acc": 0.5}


def test_the_best_trial_is_that_of_the_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(direction="minimize")
    study.set_metric_names(["val/loss"])
    for loss in (0.3, 0.1, 0.2):
        study.tell(study.ask(), loss)
    monkeypatch.setattr(optuna_search, "write_plots", lambda *_: None)
    jobs = {tmp_path / str(i): [f"seed={i}"] for i in range(3)}
    monkeypatch.setattr(optuna_search, "job_folders", lambda _: jobs)
    optuna_search._report(study, tmp_path)
    expected = "lowest val/loss, 0.1000, as a single run: python -m sports_lightning.train seed=1"
    assert capsys.readouterr().out.strip() == expected


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_pruned_trial_ends_early_without_failing(few: Path, tmp_path: Path, devices: int) -> None:
    pruner = ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.lower=1.5"]
    pruner += ["~hydra.sweeper.pruner.n_startup_trials", "hydra.sweeper.pruner.n_warmup_steps=0"]
    pruner += ["hydra.sweeper.n_trials=1"]
    arguments = [*QUICK, f"data.root={few}", "sweep=optuna", *pruner, "hydra.sweep.dir=sweep"]
    arguments += ["trainer.max_epochs=9", f"trainer.devices={devices}"]
    if devices == 1:
        with jobs_in_this_process():
            result = run_command("train", *arguments)
    else:
        result = run_process("train", *arguments)
    assert "pruned after epoch 0: val/acc" in result.stdout
    assert "did not finish" not in result.stderr
    assert len((tmp_path / "sweep/0/metrics.csv").read_text().splitlines()) == 2
    assert not (tmp_path / "sweep/0/metrics.json").exists()
    assert states(tmp_path / "sweep") == {"PRUNED": 1}
    run_command("train", "resume=sweep")
    assert states(tmp_path / "sweep") == {"PRUNED": 1}, "nothing is left to do"
    refused = try_command("train", "resume=sweep/0")
    assert "nothing is left to do" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["hydra.sweeper.maximize=[test/acc]"], "test/acc can't be an objective"),
        (["hydra.sweeper.maximize=[]"], "hydra.sweeper.maximize=[val/acc]"),
        (["hydra.sweeper.storage=nonsense"], "hydra.sweeper.storage=nonsense"),
        (["hydra.sweeper.maximize=[val/accuracy]"], "val/accuracy can't be an objective: choose one of"),
        (["optimizer.rl=interval(0,1)"], "optimizer.rl"),
        (["optimizer.lr=tag(log,interval(0,0.1))"], "optimizer.lr=tag(log,interval(0,0.1))"),
        (["model=simple_cnn,nope"], "model/nope"),
        (["sweep.parallel=0"], "sweep.parallel=0"),
        (["hydra.sweeper.n_trials=three"], "hydra.sweeper.n_trials=three must be a whole number"),
        (["hydra.sweeper.sampler._target_=optuna.samplers.GridSampler"], "a grid needs no search"),
        (["hydra.sweeper.minimize=[latency_ms]", "sweep.parallel=2"], "latency_ms would be distorted by parallel jobs"),
    ],
)
def test_a_search_that_can_not_work_is_refused(
    arguments: list[str],
    culprit: str,
) -> None:
    assert_error_line(try_command("train", *QUICK, "sweep=optuna", *arguments), culprit)


@pytest.mark.slow
def test_a_study_of_another_search_is_refused(tmp_path: Path) -> None:
    search = ["sweep=optuna", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"]
    optuna.create_study(storage=search[1].removeprefix("hydra.sweeper.storage="), study_name="search").ask()
    result = try_command("train", *QUICK, *search, "+hydra.sweeper.params.seed='0,1'")
    assert_error_line(result, "the study search", "belongs to another search", "hydra.sweeper.study=NAME")


@pytest.mark.slow
def test_two_objectives_have_a_pareto_front_and_failed_trials_are_reported(few: Path, tmp_path: Path) -> None:
    search = ["sweep=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.minimize=[latency_ms]", "trainer.max_epochs=1"]
    with jobs_in_this_process():
        printed = run_command("train", *QUICK, f"data.root={few}", *search, "hydra.sweep.dir=front").stdout
    assert "Pareto front of val/acc, latency_ms: jobs " in printed
    assert (tmp_path / "front/pareto.png").exists()
    failing = [*QUICK, f"data.root={few}", *search, "optimizer.name=nope", "hydra.sweep.dir=failed"]
    with jobs_in_this_process():
        assert try_command("train", *failing).status == 1
        again = try_command("train", "resume=failed")
    assert again.status == 1
    assert "no trials are left to run, and 2 have failed" in again.stderr.splitlines()[0]
