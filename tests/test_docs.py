"""The commands, Python code, links and paths in the documentation are correct."""

import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep

import sports_lightning
from sports_lightning import CONF_DIR
from sports_lightning.__main__ import COMMANDS, main
from sports_lightning.cli.launch import Composed, ResumedRun, ResumedSweep, parse_launch
from sports_lightning.config.overrides import rename_keys
from sports_lightning.runs.process import Process

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

# Folders of a run or of a dataset, which are not in the repository.
RUN_AND_DATASET_FOLDERS = ("checkpoints", "outputs", "train", "valid", "test", "run")

# Shell lines that are not commands of this package and that a test can neither run nor check further.
OTHER_LINES = (
    r"python3 -m venv \.venv",
    r"\. \.venv/bin/activate",
    r"pre-commit install",
    r"mkdocs serve",
    r"wandb sweep WANDB_SWEEP_FILE",
    r"wandb agent SWEEP_ID",
    r"\[ \$\? = 138 \]",
    r"scontrol requeue \$SLURM_JOB_ID",
)


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def shell_lines(page: Path) -> Iterator[list[str]]:
    """Yield each simple command in the bash blocks of a page, split into words."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                yield words[:end]
                words = words[end + 1 :]


@pytest.fixture(scope="module")
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.usefixtures("_hydra")
def test_every_shell_line_is_a_command_that_composes_or_is_known(page: Path, tmp_path: Path) -> None:
    for path, text in re.findall(r"^`(MY_CONF/\S+)`.*?^```yaml\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    for words in shell_lines(page):
        check_line(words, tmp_path)


def check_line(words: list[str], folder: Path) -> None:
    """Fail unless a simple command of the documentation is correct."""
    line = " ".join(words)
    module = next((i for i, word in enumerate(words) if word.startswith("sports_lightning.")), None)
    if module is not None:  # python, srun, torchrun … -m sports_lightning.COMMAND …
        check_command(words[module].removeprefix("sports_lightning."), words[module + 1 :], folder)
    elif words[0] == "sports-lightning":
        check_command(words[1], words[2:], folder)
    elif words[:3] == ["pip", "install", "-e"]:
        extras = set(re.fullmatch(r"\.\[([a-z,]+)\]", words[3])[1].split(","))  # type: ignore[index]
        assert extras <= set(PROJECT["project"]["optional-dependencies"]), line
    elif words[0] == "pytest":
        markers = {marker.partition(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
        assert words[1:] == [] or (words[1] == "-m" and words[2].removeprefix("not ") in markers), line
    elif words[0] in ("ruff", "mypy", "lint-imports", "mkdocs") and line != "mkdocs serve":
        assert line in (ROOT / ".ci/run").read_text(encoding="utf-8"), line
    elif words[0] in ("source", ".ci/run"):
        assert (ROOT / words[-1]).is_file(), line
    else:
        assert any(re.fullmatch(pattern, line) for pattern in OTHER_LINES), f"neither run nor known: {line}"


def check_command(name: str, arguments: list[str], folder: Path) -> None:
    """Fail unless the command exists and its config composes with these arguments."""
    assert name in COMMANDS, name
    arguments, notices = rename_keys(arguments)
    assert not notices, notices
    command = importlib.import_module(f"sports_lightning.{name}.__main__").COMMAND
    launch = parse_launch(command, arguments, Process.from_environment(), lambda path: path.name == "SWEEP_FOLDER")
    if isinstance(launch, ResumedRun | ResumedSweep):
        return
    assert isinstance(launch, Composed)
    overrides = [argument for argument in launch.arguments if argument != "-m"]
    if "--config-dir" in overrides:
        i = overrides.index("--config-dir")
        overrides[i : i + 2] = [f"hydra.searchpath=[file://{folder / overrides[i + 1]}]"]
    composes(name, tuple(first_value(override) for override in overrides))


@cache
def composes(name: str, overrides: tuple[str, ...]) -> bool:
    """Compose a config; pages share many commands."""
    compose(name, list(overrides))
    return True


def first_value(override: str) -> str:
    """Return an override as the first job of a sweep has it."""
    parsed = OverridesParser.create().parse_override(override)
    value = parsed.value()
    if isinstance(value, ChoiceSweep):
        return f"{parsed.input_line.partition('=')[0]}={next(parsed.sweep_string_iterator())}"
    return f"{parsed.key_or_group}={value.start}" if isinstance(value, IntervalSweep) else override


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_compile_and_use_names_that_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
        for name in re.findall(r"\b(?:sl|sports_lightning)\.(\w+)", block):
            assert name in sports_lightning.__all__, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_included_files_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for included in re.findall(r'^--8<-- "(.+)"', text, flags=re.M):
        assert (ROOT / included).exists(), included


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent != ROOT / "docs/log"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_paths_of_the_repository_exist(page: Path) -> None:
    for path in re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|yaml|bash))?)`", page.read_text(encoding="utf-8")):
        if path.split("/")[0] in RUN_AND_DATASET_FOLDERS and path.endswith("/"):
            continue
        places = (ROOT, ROOT / "src", ROOT / "src/sports_lightning")
        assert any((place / path).exists() for place in places), path


def test_architecture_lists_the_layers_that_import_linter_checks() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("| layer |")[2].partition("\n\n")[0].splitlines()[2:]
    documented = [set(re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1])) for row in table]
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    assert documented == [set(layer.split(" | ")) for layer in contract]


def test_readme_lists_every_command_and_every_choice() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = text.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", commands, flags=re.M)) == set(COMMANDS)
    groups = text.partition("## Configuration")[2].partition("\n## ")[0]
    for group, choices in re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+)", groups, flags=re.M):
        assert set(re.findall(r"\w+", choices)) == {path.stem for path in (CONF_DIR / group).glob("*.yaml")}, group


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170


def test_documented_package_list_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_bash_completion_completes_commands_and_keys(tmp_path: Path) -> None:
    (tmp_path / "sports-lightning").write_text(  # replaces the installed program, which takes half a second
        '#!/bin/bash\n[ "$1" = --help ] && printf "Commands\\n  train      x\\n  audit      y\\n\\n"\n'
        '[ "$1" = train ] && [ "$COMP_LINE" = "sports-lightning  optimizer.l" ] && echo "optimizer.lr= model="\n'
    )
    (tmp_path / "sports-lightning").chmod(0o755)
    script = (
        f"PATH={tmp_path}:$PATH; source {ROOT}/completion/sports-lightning.bash\n"
        'for COMP_LINE in "sports-lightning tr" "sports-lightning train optimizer.l"; do\n'
        "COMP_POINT=${#COMP_LINE}; _sports_lightning; echo ${COMPREPLY[@]}; done"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["train", "optimizer.lr="], done.stderr
