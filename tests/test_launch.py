"""What a process does is decided from its command line and its environment alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from sports_lightning.cli.command import Command
from sports_lightning.cli.command_line import repeated_keys
from sports_lightning.cli.launch import (
    Composed,
    Help,
    Launch,
    Nothing,
    ReceivedJob,
    ResumedRun,
    ResumedSweep,
    StoredJob,
    Version,
    only_prints,
    parse_launch,
)
from sports_lightning.config.overrides import format_command, last_value, quote_value
from sports_lightning.config.path_values import quote_paths
from sports_lightning.errors import UserError
from sports_lightning.predict.inputs import find_inputs
from sports_lightning.runs.process import Process


def _no_task(*_: object) -> None:
    raise AssertionError("parsing starts nothing")


TRAIN = Command("train", _no_task, resume=lambda value, is_trusted: Path(value), distributed=True)
COMPARE = Command("compare", _no_task, positional="runs")
ALONE = Process()
FIRST, SECOND = (Process(rank, 2, is_externally_launched=True) for rank in (0, 1))
FURTHER = Process(1, run_folder=Path("run"))


@pytest.mark.parametrize(
    ("command", "argv", "process", "expected"),
    [
        (TRAIN, [], ALONE, Composed(())),
        (TRAIN, ["seed=1", "--help"], ALONE, Help(("seed=1",))),
        (TRAIN, ["-h"], ALONE, Help(())),
        (TRAIN, ["--version"], ALONE, Version()),
        (TRAIN, ["~seed"], ALONE, Composed(("~seed",))),
        (TRAIN, ["seed=0,1", "-m"], ALONE, Composed(("-m", "seed=0,1"))),
        (TRAIN, ["--job", "run"], ALONE, StoredJob(Path("run"))),
        (TRAIN, ["resume=run"], ALONE, ResumedRun("run", False)),
        (TRAIN, ["resume=run", "inference.batch_size=8"], ALONE, ResumedRun("run", False, ("inference.batch_size=8",))),
        (TRAIN, ["resume='René (2)'", "trust=yes"], ALONE, ResumedRun("René (2)", True)),
        (TRAIN, ["resume=sweep", "-m"], ALONE, ResumedSweep("sweep", False)),
        (TRAIN, ["resume=auto", "seed=1"], ALONE, Composed(("resume=auto", "seed=1"))),
        (TRAIN, ["resume=null"], ALONE, Composed(("resume=null",))),
        (TRAIN, ["seed=1"], FIRST, Composed(("seed=1",))),
        (TRAIN, ["seed=1"], SECOND, ReceivedJob()),
        (TRAIN, ["--cfg=job"], SECOND, Nothing()),
        (TRAIN, ["resume=run"], SECOND, ReceivedJob()),
        (TRAIN, ["seed=1"], FURTHER, StoredJob(Path("run"))),
        (COMPARE, ["a/lr=1,2", "é=3"], ALONE, Composed(("runs=['a/lr=1,2','é=3']",))),
        (COMPARE, ["a", "b"], ALONE, Composed(("runs=[a,b]",))),
        (COMPARE, ["resume=run"], ALONE, Composed(("resume=run",))),
        (COMPARE, ["--help"], SECOND, Nothing()),
        (COMPARE, ["a"], Process(0, 1, True), Composed(("runs=a",))),
        (TRAIN, ["test=no", "--cfg", "job", "seed=1"], ALONE, Composed(("--cfg", "job", "test=no", "seed=1"))),
    ],
)
def test_command_line_and_environment_decide_what_a_process_does(
    command: Command, argv: list[str], process: Process, expected: Launch
) -> None:
    assert parse_launch(command, argv, process, lambda folder: folder.name == "sweep") == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["seed=1", "-m"], False),
        (["--help"], True),
        (["--cfg=job"], True),
        (["--cfg", "job", "seed=1"], True),
        (["--info"], True),
    ],
)
def test_options_that_print_are_recognized(arguments: list[str], expected: bool) -> None:
    assert only_prints(arguments) is expected


@pytest.mark.parametrize(
    ("command", "argv", "process", "message"),
    [
        (TRAIN, ["resume=run", "seed=1"], ALONE, "leave out seed=1"),
        (TRAIN, ["resume=run", "-m"], ALONE, "leave out -m"),
        (TRAIN, ["resume=run", "inference.size=8"], ALONE, "leave out inference.size=8"),
        (TRAIN, ["resume=sweep", "data.root=x"], ALONE, "leave out data.root=x"),
        (COMPARE, ["a"], FIRST, "compare runs in one process: start one task, not 2"),
        (COMPARE, ["a", "runs=b"], ALONE, "runs is given both as"),
        (TRAIN, ["optimizer.lr", "=", "0.1"], ALONE, "without blanks around =, as in optimizer.lr=0.1"),
        (TRAIN, ["optimizer.lr=", "0.1"], ALONE, "without blanks around =, as in optimizer.lr=0.1"),
        (TRAIN, ["optimizer.lr = 0.1"], ALONE, "write optimizer.lr=0.1"),
        (TRAIN, ["seed==1"], ALONE, "write seed=1"),
        (TRAIN, ["--lr", "0.1"], ALONE, "no option --lr: settings are KEY=VALUE.* optimizer.lr=VALUE"),
        (TRAIN, ["--batch-size=8"], ALONE, "data.batch_size=8"),
        (TRAIN, ["--multrun"], ALONE, "Did you mean --multirun"),
        (TRAIN, ["--cfg"], ALONE, "expected one argument"),
        (TRAIN, ["help"], ALONE, "--help explains train"),
        (TRAIN, ["conf/my.yaml"], ALONE, "--config-dir=FOLDER experiment=NAME"),
        (TRAIN, ["seed"], ALONE, "pass seed=VALUE"),
        (TRAIN, ["=5"], ALONE, "settings are KEY=VALUE"),
        (TRAIN, ["/"], ALONE, "data=folder data.root=/"),
        (TRAIN, ["data=my images (1)/x"], ALONE, r"""data=folder "data.root='my images \(1\)/x'\""""),
        (TRAIN, ["loss.class_weights={fox:"], ALONE, "can't be parsed: close its brackets"),
        (TRAIN, ["+loss.class_weights.Größe=2"], ALONE, "write 'loss.class_weights={Größe: 2}'"),
        (TRAIN, ["+model.arguments.größe=2"], ALONE, "model.arguments.größe is no key"),
        (Command("evaluate", _no_task), ["/"], ALONE, "ckpt_path=/"),
    ],
)
def test_arguments_that_exclude_each_other_are_refused(
    command: Command, argv: list[str], process: Process, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        parse_launch(command, argv, process, lambda folder: folder.name == "sweep")


def test_a_key_that_is_given_twice_is_named() -> None:
    assert repeated_keys(["seed=0", "lr=1", "++seed=1"]) == ["seed is given 2 times, and the last one counts: ++seed=1"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4"}, ALONE),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}, SECOND),
        ({"SPORTS_LIGHTNING_RUN_FOLDER": "run", "LOCAL_RANK": "1"}, FURTHER),
    ],
)
def test_only_rank_variables_of_a_launcher_count(environment: dict[str, str], expected: Process) -> None:
    assert Process.from_environment(environment) == expected


def test_the_value_of_a_path_key_is_taken_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a,b", "c", "d", "'tis", "[x]"):
        (tmp_path / name).mkdir()
    quoted = {
        "ckpt_path=/r/Größe (1)/best.ckpt": "ckpt_path='/r/Größe (1)/best.ckpt'",
        "ckpt_path=/r/lr=0.1/best.ckpt": "ckpt_path='/r/lr=0.1/best.ckpt'",
        "input=Anna's, 2 [x].jpg": r"input='Anna\'s, 2 [x].jpg'",
        "data.root=~/images": f"data.root={tmp_path}/images",
        "data.root=a,b": "data.root='a,b'",
        "data.root='tis": r"data.root='\'tis'",
        "runs=[x]": "runs='[x]'",
        "hydra.run.dir=1e3": "hydra.run.dir='1e3'",
        "++hydra.run.dir=x,y": "++hydra.run.dir='x,y'",
        "hydra.sweep.subdir=é=${seed}": "hydra.sweep.subdir='é=${seed}'",
        "+changes.data.root=e f,g": "+changes.data.root='e f,g'",
        "--config-dir=~/é (1)": f"--config-dir={tmp_path}/é (1)",
        "model.name=local-dir:m (1)": "model.name='local-dir:m (1)'",
        "loss.class_weights={Größe: 2}": "loss.class_weights='{Größe: 2}'",
        "+loss.class_weights={Anna's: 2}": r"+loss.class_weights='{Anna\'s: 2}'",
        "loss.class_weights={true: 2}": "loss.class_weights='{true: 2}'",
        "runs=[~/é (1),c]": f"runs=['{tmp_path}/é (1)',c]",
    }
    assert quote_paths(list(quoted)) == list(quoted.values())
    as_typed = [
        *("data.root=c,d", "data.root=images", "input=[a,b]", "input='x y'", "hydra.run.dir=${oc.env:OUT}"),
        *("data.root=null", "optimizer.lr=1,2", "--help", "input=photos/**/*.jpg", "resume=", "model.name=a,b"),
        *("loss.class_weights={a b: 2,c:1}", "loss.class_weights={a: 2},{a: 3}", "loss.class_weights=balanced"),
    ]
    assert quote_paths(as_typed) == as_typed
    sweep = ["-m", "data.root=c,é (1)", "model.weights=null,w.pth", "seed=0,1"]
    assert quote_paths(sweep) == ["-m", "data.root=c,'é (1)'", "model.weights=null,w.pth", "seed=0,1"]
    with pytest.raises(UserError, match=r"model\.weights= has no value"):
        quote_paths(["model.weights="])


ODD_NAMES = [
    "a\nb",
    "{x}",
    "$HOME",
    "100%",
    "a\\",
    "a\\'b",
    "trail ",
    '"q"',
    "null",
    "007",
    "#x",
    "a'${b}'\\\\${d}",
    "${",
    "é\u0301",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_hydra_and_a_shell_read_a_quoted_path_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    (argument,) = quote_paths([f"resume={name}"])
    assert last_value([argument], "resume") == name
    command = format_command("train", [argument, quote_value(name)]).replace("python -m", "printf '%s|'")
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert printed == f"sports_lightning.train|{argument}|{quote_value(name)}|"


def test_inputs_are_files_folders_and_globs_and_each_file_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "Anna's, 2 [x] (1)"
    folder.mkdir()
    for name in ("a.jpg", "b.png", "notes.txt"):
        (folder / name).touch()
    with caplog.at_level("INFO"):
        found = find_inputs([str(folder / "a.jpg"), str(folder), f"{tmp_path}/*/*.png"])
    assert found == [str(folder / "a.jpg"), str(folder / "b.png")]
    assert "1 .txt" in caplog.text
    with pytest.raises(UserError, match="matches no images"):
        find_inputs([str(folder), "nothing/*.jpg"])


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["lr=0.1", "--lr", "model=resnet18"])
def test_a_wrong_command_line_is_answered_without_torch(argument: str) -> None:
    program = (
        "import sys\nfrom sports_lightning.train.__main__ import COMMAND, main\n"
        f"status = main(COMMAND, [{argument!r}])\nprint(status, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1", "False"]
    assert result.stderr.count("\n") == 1
