"""The values that dashboards receive from a run, read from the files of their clients; and sweeps of W&B."""

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import FAST
from processes import forking_python, run_process
from sports_lightning import CONF_DIR
from wandb_file import read_offline_run

QUICK = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.num_workers=0", "data.audit=false"]


def test_wandb_receives_config_commit_metrics_and_images(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    run = read_offline_run(next((folder / "wandb").glob("offline-run-*")))
    config = yaml.safe_load((folder / ".hydra/config.yaml").read_text())
    assert run.config["optimizer"]["lr"] == config["optimizer"]["lr"]
    assert run.config["trainer"]["default_root_dir"] == str(folder), "the resolved config"
    provenance = json.loads((folder / "run.json").read_text())
    assert run.config["git"] == {name: provenance["git"][name] for name in ("commit", "dirty")}
    metrics = json.loads((folder / "metrics.json").read_text())
    for split, values in metrics.items():
        assert run.summary[f"best/{split}/acc"] == values["acc"]
        assert run.summary[f"best/{split}/loss"] == values["loss"]
    assert (run.summarised_by["val/acc"], run.summarised_by["val/loss"]) == ("max", "min")
    assert run.summary["flops"] == provenance["flops"] > 1e6
    assert run.summary["parameters"] == provenance["parameters"]
    assert run.job_type == "train"
    assert run.group == "", "it belongs to no sweep"
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/predictions_*.json")
    rows = json.loads(table.read_text())["data"]
    right = [row[-1] for row in rows]
    assert right == sorted(right), "mistakes first"
    sure = [row[-2] for row in rows if not row[-1]]
    assert sure == sorted(sure, reverse=True), "the most confident ahead"
    assert "run_table" in run.artifacts


@pytest.mark.slow
def test_several_dashboards_at_once_and_the_checkpoint_as_an_artifact(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    arguments = [*FAST, *QUICK, f"data.root={few}", "test=false", "logger=many", "logger.wandb.log_model=true"]
    run_process("train", *arguments, "hydra.run.dir=run")
    run = read_offline_run(next((tmp_path / "run/wandb").glob("offline-run-*")))
    assert run.artifacts["model"]
    assert list((tmp_path / "run/tensorboard").glob("events.out.*"))


@pytest.mark.slow
def test_mlflow_receives_config_and_metrics(few: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    arguments = [*FAST, *QUICK, f"data.root={few}", "test=false", "logger=mlflow", "hydra.run.dir=run"]
    run_process("train", *arguments)
    (run,) = client.search_runs([client.get_experiment_by_name("sports_lightning").experiment_id])
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/acc"] == metrics["val"]["acc"]
    assert run.data.params["optimizer/lr"] == "0.001"


class SweepServer(ThreadingHTTPServer):
    """The part of W&B's server that `wandb sweep` and `wandb agent` use: it stores the sweep and returns a run."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SweepRequest)
        self.sweep = ""
        self.rates = [0.003]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL operation."""
        if "UpsertSweep" in query:
            self.sweep = variables["config"]
            project = {"id": "1", "name": "sports", "entity": {"id": "1", "name": "us"}}
            return {"upsertSweep": {"sweep": {"name": "abcd1234", "project": project}, "configValidationWarnings": []}}
        if "SweepWithRuns" in query:
            return {"project": {"sweep": {"config": self.sweep, "runs": {"edges": []}}}}
        if "CreateAgent" in query:
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "Heartbeat" in query:
            is_idle = json.loads(variables["runState"]) == {}
            commands = [self.run(self.rates.pop())] if is_idle and self.rates else []
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
        return {"viewer": {"id": "1", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}}

    def run(self, rate: float) -> dict[str, Any]:
        """The run that the agent starts."""
        sweep = yaml.safe_load(self.sweep)
        drawn = {name: spec.get("value", spec.get("values", [rate])[-1]) for name, spec in sweep["parameters"].items()}
        args = {name: {"value": value} for name, value in drawn.items()}
        return {"type": "run", "run_id": f"run{len(self.rates)}", "program": sweep["program"], "args": args}


class SweepRequest(BaseHTTPRequestHandler):
    """A request to a `SweepServer`."""

    server: SweepServer

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        operation = json.loads(sent) if self.path == "/graphql" else {}
        data = self.server.answer(operation["query"], operation.get("variables") or {}) if operation else {}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.mark.slow
def test_wandb_agent_runs_the_settings_that_its_server_draws(few: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load((CONF_DIR.parent / "docs/examples/wandb_sweep.yaml").read_text())
    more = [*FAST, *QUICK, f"data.root={few}", "test=false"]
    sweep["parameters"] |= {name: {"value": value} for name, _, value in (line.partition("=") for line in more)}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    server = SweepServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_MODE": "offline",  # of the runs
        "PATH": f"{Path(forking_python()).parent}:{os.environ['PATH']}",  # the agent starts `python`
    }
    for arguments in (["sweep", "sweep.yaml"], ["agent", "--count", "1", "us/sports/abcd1234"]):
        result = subprocess.run(
            ["wandb", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
        )
        assert result.returncode == 0, result.stdout + result.stderr
    server.shutdown()
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert (folder / "metrics.json").exists()
    (tracked,) = (folder / "wandb").glob("offline-run-*")
    run = read_offline_run(tracked)
    assert run.id == "run0", "the name that the server chose"
    assert run.config["optimizer"]["lr"] == 0.003
    assert run.config["loss"]["function"]["label_smoothing"] == 0.1
