"""A recorded run once more, and whether everything came out the same."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sports_lightning.cli.distributed import own_logging
from sports_lightning.config.trusted_targets import check_targets, distrust_working_folder
from sports_lightning.errors import UserError
from sports_lightning.models.classifier import load_classifier
from sports_lightning.runs.provenance import differences, flatten, read_pictures
from sports_lightning.runs.resume import load_config
from sports_lightning.storage.files import read_csv

# What no two runs share, and what says nothing of the result.
_OWN = (
    "command.",
    "seconds.",
    "interruptions.",
    "images_per_second.",
    "latency_ms.",
    "data.root.",
    "numerics.images_per_second.",
    "numerics.why.",
)
_NAMED = 5  # of each kind, in the message


@dataclass(frozen=True)
class Outcome:
    """What two runs of the same config have not in common; {name: (of the first, of the second)} each.

    Attributes:
        results: figures of `metrics.json`, cells of `metrics.csv`, and the best checkpoint's weights.
        compared: how many results there are.
        facts: recorded facts and settings that could explain it.
        pictures: those whose content is not the same, with their digests.
    """

    results: dict[str, tuple[Any, Any]]
    compared: int
    facts: dict[str, tuple[Any, Any]]
    pictures: dict[str, tuple[Any, Any]]

    def of_results(self) -> str:
        """Which results are not the same, in a few words."""
        return f"{len(self.results)} of {self.compared} results differ ({_listed(self.results)})"

    def causes(self) -> str:
        """The facts, settings and pictures that are not the same, in a few words."""
        causes = [_listed(self.facts)] if self.facts else []
        if self.pictures:
            names = [*list(self.pictures)[:_NAMED], *(["…"] if len(self.pictures) > _NAMED else [])]
            causes.append(f"the content of {len(self.pictures)} pictures ({', '.join(names)})")
        return "; ".join(causes)


def _listed(found: dict[str, tuple[Any, Any]]) -> str:
    shown = [f"{name} {a} → {b}" for name, (a, b) in list(found.items())[:_NAMED]]
    return ", ".join([*shown, *([f"{len(found) - _NAMED} more"] if len(found) > _NAMED else [])])


def run_again(original: Path, folder: Path, changes: DictConfig, trust: bool) -> None:
    """Train in `folder` what the run folder `original` has trained, with `changes` to its config.

    Raises:
        UserError: without `trust`, a config that could run anything.
        UserError: no finished run there, an unknown key, or a training that failed.
    """
    hydra_config = OmegaConf.load(original / ".hydra" / "hydra.yaml")
    if hydra_config.hydra.job.config_name != "train":
        raise UserError(f"run={original} is a run of {hydra_config.hydra.job.config_name}, not of train")
    config = load_config(original)
    if not trust:
        check_targets(config, f"run={original}")
        distrust_working_folder()
    cfg = OmegaConf.create(config)
    OmegaConf.set_struct(cfg, True)
    try:
        cfg.merge_with(changes)
    except OmegaConfBaseException as error:
        raise UserError(f"changes={changes} do not fit the run's config: {str(error).splitlines()[0]}") from error
    with open_dict(hydra_config):
        hydra_config.hydra.job_logging = own_logging()  # the stored one could run anything
        hydra_config.hydra.runtime.output_dir = str(folder)
        for key, value in flatten(OmegaConf.to_container(changes)).items() if changes else ():
            hydra_config.hydra.overrides.task.append(f"{key}={value}")
    shutil.copytree(original / ".hydra", folder / ".hydra")
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    OmegaConf.save(hydra_config, folder / ".hydra" / "hydra.yaml")
    cwd = Path(hydra_config.hydra.runtime.cwd)  # relative paths of the config are meant from there
    if not cwd.is_dir():
        raise UserError(f"run={original} was started in {cwd}, which is not there: put it back for its relative paths")
    command = [sys.executable, "-m", "sports_lightning.train", "--job", str(folder)]
    status = subprocess.run(command, cwd=cwd).returncode
    if status:
        raise UserError(f"the run could not be repeated: its training ended with exit status {status}")


@dataclass(frozen=True)
class Record:
    """What came out of a run, and what it depended on, by dotted keys."""

    results: dict[str, Any]
    facts: dict[str, Any]
    pictures: dict[str, str]


def read_record(folder: Path) -> Record:
    """The record in a run folder of `train`.

    Raises:
        UserError: it is not that of a finished run, or not a whole one.
    """
    try:
        results = flatten({**_figures(folder), **_epochs(folder), **_weights(folder)})
        facts = {
            name: value
            for name, value in flatten(_facts(folder)).items()
            if not f"{name}.".startswith(_OWN) and not name.endswith(".fingerprint")
        }
        return Record(results, facts, read_pictures(folder))
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"run={folder} is not the whole folder of a finished run of train: {error}") from error


def compare_records(first: Record, second: Record) -> Outcome:
    """Compare two runs to the last digit."""
    return Outcome(
        differences(first.results, second.results),
        len(first.results),
        differences(first.facts, second.facts),
        differences(first.pictures, second.pictures),
    )


def _figures(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return figures


def _epochs(folder: Path) -> dict[str, Any]:
    return {f"epoch {row['epoch']}": row for row in read_csv(folder / "metrics.csv")}


def _weights(folder: Path) -> dict[str, str]:
    content = hashlib.blake2b(digest_size=8)
    for name, tensor in load_classifier(folder / "checkpoints" / "best.ckpt").state_dict().items():
        content.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return {"weights": content.hexdigest()}


def _facts(folder: Path) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=False)
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {"config": config} | {name: value for name, value in facts.items() if name != "seed"}
