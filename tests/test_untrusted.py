"""Untrusted files: none of them runs code, hangs, exhausts the memory, or breaks out of a table."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from sports_lightning.config.trusted_targets import check_targets
from sports_lightning.data.decode import decode
from sports_lightning.data.file_hashes import check_files, printable
from sports_lightning.errors import UnreadableImage, UserError
from sports_lightning.storage.files import read_csv, write_csv
from sports_lightning.train import losses


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.ran}",)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["state_dict", "sports_lightning", "callbacks", "hyper_parameters"])
def test_a_checkpoint_that_would_run_code(trained: tuple[Path, str], few: Path, tmp_path: Path, where: str) -> None:
    ran = tmp_path / "ran"
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    (run / "metrics.json").unlink()  # as if it had been interrupted
    for name in ("best", "last"):
        checkpoint = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
        torch.save({**checkpoint, where: Trap(ran)}, run / f"checkpoints/{name}.ckpt")
    best = f"ckpt_path={run}/checkpoints/best.ckpt"
    assert_error_line(try_command("evaluate", best), "best.ckpt is not a checkpoint")
    assert_error_line(try_command("predict", best, f"input={few}/test/tennis"), "best.ckpt is not a checkpoint")
    config = (run / ".hydra/hydra.yaml").read_text()
    (run / ".hydra/hydra.yaml").write_text(config.replace(str(trained[0]), str(run)))
    assert_error_line(try_command("train", f"resume={run}"), "last.ckpt is not a checkpoint")
    assert not ran.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_weights_that_would_run_code(few: Path, tmp_path: Path, suffix: str) -> None:
    weights = tmp_path / f"weights{suffix}"
    torch.save({"conv1.weight": Trap(tmp_path / "ran")}, weights)
    arguments = [*FAST, "logger=csv", f"data.root={few}", "model=resnet50", f"model.weights={weights}"]
    assert_error_line(try_command("train", *arguments), f"weights{suffix}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained_cfg": {"url": "http://localhost/x"}},
        {"pretrained": True},
        {"act_layer": {"_target_": "os.system", "command": "touch ran"}},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_checkpoint_whose_spec_names_other_files(
    trained: tuple[Path, str], few: Path, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    checkpoint = torch.load(trained[0] / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["sports_lightning"]["arguments"] = arguments
    torch.save(checkpoint, tmp_path / "other.ckpt")
    for name, more in (("evaluate", []), ("predict", [f"input={few}/test/tennis"])):
        assert_error_line(try_command(name, f"ckpt_path={tmp_path}/other.ckpt", *more), next(iter(arguments)))
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "torch.hub.load",
        "torch.load",
        "torch.nn.modules.module.functools.partial",
        "pytorch_lightning.callbacks.model_checkpoint.os.system",
        "sports_lightning.train.callbacks.Path",
        "hydra.utils.instantiate",
        "logging.config.fileConfig",
        "pytorch_lightning.Trainer.save_checkpoint",
        "${oc.create:{_target_:os.system}}",
        "nothing.at.all",
    ],
)
def test_a_foreign_target_is_refused(target: str) -> None:
    config = {"callbacks": {"more": {"_target_": target, "_args_": ["1"]}}}
    with pytest.raises(UserError, match=rf"{re.escape(target)}.*trust=true"):
        check_targets(config, "resume=here")


@pytest.mark.parametrize("target", ["os.system", "${oc.create:{_target_:os.system}}"])
def test_a_run_folder_with_a_foreign_target(trained: tuple[Path, str], tmp_path: Path, target: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    config["callbacks"]["more"] = {"_target_": target, "command": f"touch {tmp_path}/ran", "_args_": ["1"]}
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    assert_error_line(try_command("reproduce", f"run={run}"), target, "trust=true")
    (run / "metrics.json").unlink()
    assert_error_line(try_command("train", f"resume={run}"), target, "trust=true")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_run_folder_whose_logging_would_run_code(trained: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    (run / "metrics.json").unlink()
    config = yaml.safe_load((run / ".hydra/hydra.yaml").read_text())
    config["hydra"]["more"] = {"()": "os.mkdir", "path": str(tmp_path / "ran")}
    config["hydra"]["job_logging"]["handlers"] = {"more": "${hydra.more}"}
    (run / ".hydra/hydra.yaml").write_text(yaml.safe_dump(config))
    hydra_config = yaml.safe_dump(config).replace(str(trained[0]), str(run))
    (run / ".hydra/hydra.yaml").write_text(hydra_config)
    (run / "checkpoints/last.ckpt").write_bytes(b"torn")
    assert_error_line(try_command("train", f"resume={run}"), "last.ckpt is not a checkpoint")
    shutil.copy(trained[0] / "metrics.json", run)
    try_command("reproduce", f"run={run}", "+changes.trainer.max_epochs=0")
    assert not (tmp_path / "ran").exists()


def test_our_own_configs_are_among_the_building_blocks() -> None:
    conf = Path(__file__).parents[1] / "conf"
    for file in (file for file in conf.rglob("*.yaml") if "hydra" not in file.relative_to(conf).parts):
        check_targets(yaml.safe_load(file.read_text()), str(file))
    with pytest.raises(UserError, match=r"os\.system"):
        check_targets({"a": [{"b": {"_target_": "os.system"}}]}, "x")


def test_a_loss_class_of_the_package_is_trusted_and_its_functions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    focal = type("FocalLoss", (torch.nn.Module,), {"__module__": losses.__name__})
    monkeypatch.setattr(losses, "FocalLoss", focal, raising=False)
    check_targets({"loss": {"function": {"_target_": "sports_lightning.train.losses.FocalLoss"}}}, "x")
    for other in ("loss_function", "instantiate"):
        with pytest.raises(UserError, match="building blocks"):
            check_targets({"_target_": f"sports_lightning.train.losses.{other}"}, "x")


def test_a_file_that_is_not_regular_is_named_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(2**31)  # takes no disk space
    names = sorted(path.name for path in tmp_path.iterdir())
    started = time.monotonic()
    entries = dict(zip(names, check_files(tmp_path, names), strict=True))
    for name in names:
        with pytest.raises(UnreadableImage, match=name):
            decode(tmp_path / name)
    assert time.monotonic() - started < 10
    assert entries["pipe.jpg"].problem == entries["zero.jpg"].problem == "not a regular file"
    assert "bytes, more than" in entries["huge.jpg"].problem
    assert all(entry.problem for entry in entries.values())


@pytest.mark.slow
def test_an_image_that_would_exceed_the_memory(tmp_path: Path) -> None:
    chunk = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(chunk, "PNG")  # 900 million pixels
    (tmp_path / "bomb.png").write_bytes(chunk.getvalue())
    assert len(chunk.getvalue()) < 200_000
    assert "900000000 pixels" in check_files(tmp_path, ["bomb.png"])[0].problem
    with pytest.raises(UnreadableImage, match="900000000 pixels"):
        decode(tmp_path / "bomb.png")


# fmt: off
NAMES = [

    "<img src=x onerror=alert(1)>",
    '=HYPERLINK("x")',
    "line\nbreak",
    "$\\frac{1$ [red] &amp; \x1b[31m",
    "-2+3",
    "'q",
]


@pytest.mark.slow
def test_names_that_are_markup_formulas_or_more_than_a_line(few: Path, tmp_path: Path) -> None:
    """A whole run on classes with such names: pages, tables and messages show them unchanged."""
    sources = sorted(path for path in (few / "train").iterdir())
    for split, count in (("train", 8), ("valid", 2), ("test", 2)):
        for name, source in zip(NAMES, sources, strict=False):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(sorted((few / split / source.name).iterdir())[:count]):
                shutil.copy(image, folder / f"{name.replace('/', '')}{i}.jpg")
    arguments = [*FAST, "data=folder", "data.root=data", "logger=csv", "trainer.max_epochs=1", "data.num_workers=0"]
    result = run_command("train", *arguments, "hydra.run.dir=run")
    run_command("audit", "data=folder", "data.root=data", "hydra.run.dir=audit")
    run_command("predict", "ckpt_path=run/checkpoints/best.ckpt", "input=data/test", "hydra.run.dir=out")
    run_command("compare", "run", "hydra.run.dir=both")
    assert "\x1b[31m" not in result.stdout
    for page in ("run/report.html", "audit/audit.html", "both/compare.html"):
        assert "<img src=x" not in (tmp_path / page).read_text(), page
    for table in ("run/predictions.csv", "run/per_class.csv", "out/predictions.csv"):
        with (tmp_path / table).open(newline="") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1, table
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "-", "+", "@"))], table
    assert {row["label"] for row in read_csv(tmp_path / "run/predictions.csv")} == set(NAMES)

    (tmp_path / "data/train/line\nbreak/line\nbreak0.jpg").write_bytes(b"no image")
    broken = try_command("train", *arguments)
    assert broken.status == 1
    assert broken.stderr.count("\n") == 1
    assert "line\\nbreak0.jpg" in broken.stderr


def test_quoted_cells_are_read_back_unchanged(tmp_path: Path) -> None:
    texts = ["=1+1", "-x", "+y", "@z", "\ttab", "plain", "'single", "'=kept", "''-1", "a=b", "-1.5", "+2e-3", "'-1.5"]
    write_csv(tmp_path / "t.csv", ["text", "number"], [[text, -1.5] for text in texts])
    assert [row["text"] for row in read_csv(tmp_path / "t.csv")] == texts
    assert {row["number"] for row in read_csv(tmp_path / "t.csv")} == {"-1.5"}


def test_only_what_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    written = {"=1+1": "'=1+1", "-x": "'-x", "-1.5": "-1.5", "+2e-3": "+2e-3", "'single": "'single", "-": "'-"}
    written |= {"\rx": "'\rx", "-1.5.2": "'-1.5.2", "-inf": "'-inf"}
    write_csv(tmp_path / "t.csv", ["text"], [[text] for text in written])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [cells[0] for cells in csv.reader(file)] == ["text", *written.values()]


def test_a_path_in_a_table_names_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=x.jpg", "-1.jpg", "+a/b.jpg", "@c.jpg", "'q.jpg", "plain.jpg", "'=d.jpg", "a b,c.jpg"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    write_csv(tmp_path / "t.csv", ["path"], [[name] for name in names])
    for rows in (list(csv.DictReader((tmp_path / "t.csv").open(newline=""))), read_csv(tmp_path / "t.csv")):
        for row in rows:
            assert not row["path"].startswith(("=", "-", "+", "@"))
            assert Path(row["path"]).read_text() == str(Path(row["path"]))


def test_printable() -> None:
    assert printable("a\nb\x1b[31m\udc80é😀") == "a\\nb\\x1b[31m\\udc80é😀"


@pytest.mark.slow
def test_mutated_images_are_decoded_or_refused(few: Path, tmp_path: Path) -> None:
    """The short form of benchmarks/fuzz_decoding.py, in a separate process, to detect a crash."""
    script = Path(__file__).parents[1] / "benchmarks" / "fuzz_decoding.py"
    result = subprocess.run(
        [sys.executable, str(script), str(few), "--inputs", "400"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def sweep_folder(tmp_path: Path, cwd: str, of_hydra: list[str], of_task: list[str], sources: list[str]) -> Path:
    """A sweep folder that an attacker could have made."""
    folder = tmp_path / "evil/sweep"
    folder.mkdir(parents=True)
    overrides = {"hydra": ["hydra.mode=MULTIRUN", *of_hydra], "task": of_task}
    runtime = {"cwd": cwd, "config_sources": [{"path": path, "provider": "command-line"} for path in sources]}
    written = {"hydra": {"overrides": overrides, "runtime": runtime, "job": {"config_name": "train"}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(written))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_hydra", "of_task", "sources"),
    [
        ([], ["loss.function._target_=os.system"], []),
        ([], ["++loss.function=choice({_target_:subprocess.call,args:[[touch,TOUCHED]]})"], []),
        ([], ["++loss.function={_target_:subprocess.call,args:[[touch,TOUCHED]]},{_target_:os.system}"], []),
        ([], ["experiment=../../../../../../../../proc/self/cwd/evil"], []),
        ([], ["+x@hydra.launcher=y"], []),
        ([], ["/experiment=/evil"], []),
        (["hydra/sweeper=optuna", "++hydra.sweeper.params={loss:'{function:{_target_:os.system}}'}"], [], []),
        (["hydra.launcher._target_=os.system"], [], []),
        (["hydra.job_logging.formatters.simple.()=os.system"], [], []),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.setup=[touch TOUCHED]"], [], []),
        (["hydra.sweep.subdir=/tmp/elsewhere"], [], []),
        ([], [], ["evil/conf"]),
    ],
)
def test_an_untrusted_sweep_runs_no_foreign_code(
    of_hydra: list[str], of_task: list[str], sources: list[str], tmp_path: Path, ) -> None:
    touched = tmp_path / "touched"
    of_task = [override.replace("TOUCHED", str(touched)) for override in of_task]
    folder = sweep_folder(tmp_path, str(tmp_path), of_hydra, [*FAST, "logger=csv", *of_task], sources)
    assert_error_line(try_command("train", f"resume={folder}"), "trust=true")
    assert not touched.exists()


@pytest.mark.slow
def test_an_untrusted_working_folder_is_not_imported_from(few: Path, tmp_path: Path) -> None:
    quick = ["logger=csv", "data.audit=false", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "test=false"]
    folder = sweep_folder(tmp_path, "evil", [], [*FAST, *quick, f"data.root={few}", "seed=0"], [])
    (tmp_path / "evil/sports_lightning").mkdir()
    (tmp_path / "evil/sports_lightning/__init__.py").touch()
    (tmp_path / "evil/sports_lightning/train.py").write_text("open('touched', 'w')")
    run_command("train", f"resume={folder}")
    assert not (tmp_path / "evil/touched").exists()
    assert (folder / "0/metrics.json").exists()
