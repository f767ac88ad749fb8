"""Write docs/reference/configuration.md from conf/: every group, its choices, and every key with default and comment.

Run it after a change in conf/: python docs/generate_reference.py
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs/reference/configuration.md"
GROUPS = (
    *("data", "augment", "model", "finetune", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger"),
    *("inference", "sweep", "hydra/sweeper", "experiment", "debug"),
)


@dataclass
class Key:
    """A key as a file declares it."""

    name: str
    default: str
    comment: str


def read_comment(file: Path) -> str:
    """Return the comment at the top of a YAML file."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line != "# @package _global_"]
    end = next(i for i, line in enumerate([*lines, ""]) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def read_keys(file: Path, prefix: str) -> list[Key]:
    """Return the keys of a YAML file; comment lines that follow a key belong to it."""
    keys: list[Key] = []
    path: list[str] = []
    body = re.sub(r"\A(#.*\n)+|^defaults:\n(  .*\n)+", "", file.read_text(encoding="utf-8"), flags=re.M)
    for line in re.sub(r"^defaults:\n(  .*\n)+", "", body, flags=re.M).splitlines():
        found = re.fullmatch(r"( *)(\w+):(.*?)(?:(?:^|\s+)# (.*))?", line)
        if found and found[2] != "_target_":
            path = [*path[: len(found[1]) // 2], found[2]]
            keys.append(Key(prefix + ".".join(path), found[3].strip(), found[4] or ""))
        elif line.lstrip().startswith("# ") and keys:
            keys[-1].comment += f" {line.lstrip()[2:]}"
    return keys


def group_keys(group: str) -> list[Key]:
    """Return the keys that a group declares; of a key in several choices, the first one with a comment."""
    prefix = "hydra.sweeper." if group == "hydra/sweeper" else f"{group}."
    files = sorted((CONF / group).glob("*.yaml"), key=lambda file: ("_self_" in file.read_text("utf-8"), file.name))
    keys: dict[str, Key] = {}
    for file in files:
        if "@package _global_" not in file.read_text(encoding="utf-8"):
            for key in read_keys(file, prefix):
                if not keys.get(key.name, key).comment or key.name not in keys:
                    keys[key.name] = key
    return list(keys.values())


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]] + [""]


def keys_table(keys: list[Key]) -> list[str]:
    """Return the table of some keys."""
    return table(
        ["key", "default", "meaning"], [[f"`{k.name}`", k.default and f"`{k.default}`", k.comment] for k in keys]
    )


def build_page() -> str:
    """Return the text of the page."""
    lines = ["# Configuration reference", "", "Generated from `conf/` by `docs/generate_reference.py`.", ""]
    for file in sorted(CONF.glob("*.yaml")):
        lines += [f"## {file.stem}", "", read_comment(file), ""]
        lines += keys_table(keys) if (keys := read_keys(file, "")) else []
    for group in GROUPS:
        files = sorted((CONF / group).glob("*.yaml"))
        lines += [f"## Group `{group}`", "", *table(["choice", ""], [[f"`{f.stem}`", read_comment(f)] for f in files])]
        lines += keys_table(keys) if (keys := group_keys(group)) else []
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(build_page(), encoding="utf-8")
