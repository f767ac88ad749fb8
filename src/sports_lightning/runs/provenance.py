"""The provenance of a run: its code, libraries, machine and images, in addition to its config.

It is stored as `run.json`, `images.csv.gz` and `git.diff` in the run folder; `reproduce` and `compare` read it there.
"""

import csv
import gzip
import io
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from sports_lightning.storage.disk_cache import fingerprint, installed_versions, library_versions
from sports_lightning.storage.files import write_bytes, write_json, write_text

IMAGES = "images.csv.gz"

# Keys of `run.json` in version 0.1.
_RENAMED = {"learning": "trainable", "numerics": "precision", "on_features": "cached_features"}


def collect_provenance(
    command: str, seed: int | None, data: Mapping[str, Any], accelerator: str = "auto"
) -> dict[str, Any]:
    """The provenance of a run.

    Args:
        command: the command line that composes the run's config.
        seed: the run's seed, if it has one.
        data: the dataset's root, and per split the number and fingerprint of its images (`DatasetIndex.provenance`).
        accelerator: Lightning's name; with "cpu", the GPUs are neither listed nor touched.
    """
    git = _git_state()
    return {
        "command": command,
        "seed": seed,
        "git": {"commit": git["commit"], "dirty": bool(git["diff"]), "diff": git["diff"]},
        "packages": _packages(),
        "machine": machine(uses_gpus=accelerator != "cpu"),
        "data": dict(data),
    }


def write_provenance(provenance: dict[str, Any], images: Iterable[tuple[str, str, str, str]], folder: Path) -> None:
    """Write `run.json`, `images.csv.gz` and, if there are uncommitted changes to the code, `git.diff`.

    Args:
        provenance: result of `collect_provenance`, perhaps with more keys.
        images: (split, path, digest, class) of each image (`DatasetIndex.rows`).
        folder: the run folder.
    """
    _write_digests(images, folder / IMAGES)
    diff = provenance["git"]["diff"]
    if diff:
        write_text(folder / "git.diff", diff)
    write_json(folder / "run.json", without_diff(provenance))


def without_diff(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance with a fingerprint of the uncommitted changes in place of the changes."""
    return (
        provenance | {"git": provenance["git"] | {"diff": fingerprint(provenance["git"]["diff"])}} if provenance else {}
    )


def read_digests(folder: Path, split: str | None = None) -> dict[str, str]:
    """{path: digest} of the images that a run used, or those of one split, in order, from its `images.csv.gz`."""
    return {row["path"]: row["digest"] for row in read_images(folder) if split in (None, row["split"])}


def read_images(folder: Path) -> Iterator[dict[str, str]]:
    """The rows of a run's `images.csv.gz`: split, path, digest and label, which versions before 0.2 did not write."""
    name = IMAGES if (folder / IMAGES).exists() else "pictures.csv.gz"  # its name in version 0.1
    with gzip.open(folder / name, "rt", newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield from csv.DictReader(file)


def read_provenance(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `run.json`, with the keys of this version."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {_RENAMED.get(name, name): value for name, value in found.items()}


def machine(uses_gpus: bool = True) -> dict[str, Any]:
    """Processor and cores, torch's threads, GPUs, operating system and Python version."""
    import torch

    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() if uses_gpus else 0)],
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def processor() -> str:
    """The CPU's name and number of cores."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested mappings; an empty mapping is a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix.removesuffix("."): tree}
    return {key: value for name, part in tree.items() for key, value in flatten(part, f"{prefix}{name}.").items()}


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (first, second)} for each key in which two mappings differ; a missing key is None, and NaN equals NaN."""
    pairs = {key: (first.get(key), second.get(key)) for key in dict.fromkeys([*first, *second])}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b and not (a != a and b != b)}


def _packages() -> dict[str, str]:
    """Versions of this package and its requirements."""
    try:
        needed = [re.match(r"[\w.-]+", line) for line in requires("sports-lightning") or [] if "extra ==" not in line]
    except PackageNotFoundError:  # a checkout that is not installed
        return library_versions()
    return installed_versions(["sports-lightning", *sorted(match[0] for match in needed if match)])


def _git_state() -> dict[str, str]:
    """The commit of this package's code and the diff since; both empty outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        found = subprocess.run(["git", "-C", str(here.parent), *arguments], capture_output=True, check=True, timeout=60)
        return found.stdout.decode(errors="replace").strip("\n")

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed package may lie inside another repository
        top = git("rev-parse", "--show-toplevel")
        diff = git("-C", top, "diff", "--no-ext-diff", "--no-color", "--binary", "HEAD", "--", "src", "conf")
        others = git("-C", top, "ls-files", "--others", "--exclude-standard", "-z", "--", "src", "conf")
        for name in filter(None, others.split("\0")):
            diff += f"\nnot in git: {name}\n{_content(Path(top, name))}"
        return {"commit": git("rev-parse", "HEAD"), "diff": diff}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "", "diff": ""}


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:  # such as a broken link, or a repository of its own
        return f"({error.strerror})"


def _write_digests(images: Iterable[tuple[str, str, str, str]], path: Path) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["split", "path", "digest", "label"])
    writer.writerows(images)
    write_bytes(path, gzip.compress(buffer.getvalue().encode(errors="surrogateescape"), mtime=0))
