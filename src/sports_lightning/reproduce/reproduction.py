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

from sports_lightning.cli.distributed import default_job_logging
from sports_lightning.config.trusted_targets import check_targets, distrust_working_folder
from sports_lightning.errors import UserError
from sports_lightning.models.classifier import load_classifier
from sports_lightning.runs.provenance import differences, flatten, read_digests, read_provenance
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
    "precision.images_per_second.",
    "precision.why.",
)
_NAMED = 5  # of each kind, in the message


@dataclass(frozen=True)
class Outcome:
    """What two runs of the same config have not in common; {name: (of the first, of the second)} each.

    Attributes:
        results: metrics of `metrics.json`, cells of `metrics.csv`, and the best checkpoint's weights.
        compared: how many results there are.
        provenance: recorded provenance and settings that could explain it.
        images: those whose content is not the same, with their digests.
    """

    results: dict[str, tuple[Any, Any]]
    compared: int
    provenance: dict[str, tuple[Any, Any]]
    images: dict[str, tuple[Any, Any]]

    def of_results(self) -> str:
        """Which results are not the same, in a few words."""
        return f"{len(self.results)} of {self.compared} results differ ({_listed(self.results)})"

    def causes(self) -> str:
        """The provenance, settings and images that are not the same, in a few words."""
        causes = [_listed(self.provenance)] if self.provenance else []
        if self.images:
            names = [*list(self.images)[:_NAMED], *(["…"] if len(self.images) > _NAMED else [])]
            causes.append(f"the content of {len(self.images)} images ({', '.join(names)})")
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
        hydra_config.hydra.job_logging = default_job_logging()  # the stored one could run anything
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
class RunRecord:
    """What came out of a run, and what it depended on, by dotted keys."""

    results: dict[str, Any]
    provenance: dict[str, Any]
    images: dict[str, str]


def read_record(folder: Path) -> RunRecord:
    """The record in a run folder of `train`.

    Raises:
        UserError: it is not that of a finished run, or not a whole one.
    """
    try:
        results = flatten({**_metrics(folder), **_epochs(folder), **_weights(folder)})
        provenance = {
            name: value
            for name, value in flatten(_provenance(folder)).items()
            if not f"{name}.".startswith(_OWN) and not name.endswith(".fingerprint")
        }
        return RunRecord(results, provenance, read_digests(folder))
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"run={folder} is not the whole folder of a finished run of train: {error}") from error


def compare_records(first: RunRecord, second: RunRecord) -> Outcome:
    """Compare two runs to the last digit."""
    return Outcome(
        differences(first.results, second.results),
        len(first.results),
        differences(first.provenance, second.provenance),
        differences(first.images, second.images),
    )


def _metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _epochs(folder: Path) -> dict[str, Any]:
    return {f"epoch {row['epoch']}": row for row in read_csv(folder / "metrics.csv")}


def _weights(folder: Path) -> dict[str, str]:
    content = hashlib.blake2b(digest_size=8)
    for name, tensor in load_classifier(folder / "checkpoints" / "best.ckpt").state_dict().items():
        content.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return {"weights": content.hexdigest()}


def _provenance(folder: Path) -> dict[str, Any]:
    config = load_config(folder)
    provenance = read_provenance(folder)
    return {"config": config} | {name: value for name, value in provenance.items() if name != "seed"}
