"""Repeats a finished run from its stored config and compares the results bit for bit."""

import hashlib
import json
import logging
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
from sports_lightning.runs.changed_settings import CHANGES
from sports_lightning.runs.layout import SPLIT_FILE, SPLIT_INFO
from sports_lightning.runs.provenance import differences, flatten, read_digests, read_provenance
from sports_lightning.runs.resume import load_config, load_hydra_config
from sports_lightning.storage.files import DAMAGED, read_csv

log = logging.getLogger(__name__)

# Provenance that differs between any two runs or does not influence the result.
_IGNORED = (
    "command.",
    "seconds.",
    "interruptions.",
    "images_per_second.",
    "latency_ms.",
    "data.root.",
    "precision.images_per_second.",
    "precision.why.",
)
_PRINTED = 5  # differences of each kind, in a message


@dataclass(frozen=True)
class Outcome:
    """The differences between two runs, each as {name: (value of the first, value of the second)}.

    Attributes:
        results: differences in `metrics.json`, `metrics.csv` and the best checkpoint's weights.
        compared: how many results were compared.
        provenance: differences in settings and provenance, which could explain those in the results.
        images: images with different content, with their digests.
    """

    results: dict[str, tuple[Any, Any]]
    compared: int
    provenance: dict[str, tuple[Any, Any]]
    images: dict[str, tuple[Any, Any]]

    def describe_results(self) -> str:
        """The differing results, on one line."""
        return f"{len(self.results)} of {self.compared} results differ ({_listed(self.results)})"

    def describe_causes(self) -> str:
        """The differing settings, provenance and images, on one line; "" if there are none."""
        causes = [_listed(self.provenance)] if self.provenance else []
        if self.images:
            names = [*list(self.images)[:_PRINTED], *(["…"] if len(self.images) > _PRINTED else [])]
            causes.append(f"the content of {len(self.images)} images ({', '.join(names)})")
        return "; ".join(causes)


def _listed(differing: dict[str, tuple[Any, Any]]) -> str:
    shown = [f"{name} {a} → {b}" for name, (a, b) in list(differing.items())[:_PRINTED]]
    return ", ".join([*shown, *([f"{len(differing) - _PRINTED} more"] if len(differing) > _PRINTED else [])])


def run_again(original: Path, folder: Path, changes: DictConfig, trust: bool) -> None:
    """Repeat the training of the run folder `original` in `folder`.

    Args:
        original: the run folder.
        folder: the new run folder.
        changes: changes to the config.
        trust: whether the config may name any `_target_`.

    Raises:
        UserError: `original` is not a run of train, its config could run foreign code, a changed key is unknown, or
            the training failed.
    """
    hydra_config = OmegaConf.create(load_hydra_config(original))
    command = OmegaConf.select(hydra_config, "hydra.job.config_name")
    if command != "train":
        raise UserError(f"run={original} is a run of {command or 'no command'}, not of train")
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
        hydra_config.hydra.job_logging = default_job_logging()  # the stored one could run foreign code
        hydra_config.hydra.runtime.output_dir = str(folder)
        for key, value in flatten(OmegaConf.to_container(changes)).items() if changes else ():
            hydra_config.hydra.overrides.task.append(f"{key}={value}")
    shutil.copytree(original / ".hydra", folder / ".hydra", ignore=shutil.ignore_patterns(CHANGES))
    for name in (SPLIT_FILE, SPLIT_INFO):
        if (original / name).exists():
            shutil.copy(original / name, folder / name)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    OmegaConf.save(hydra_config, folder / ".hydra" / "hydra.yaml")
    cwd = Path(hydra_config.hydra.runtime.cwd)  # the config's relative paths start there
    if not cwd.is_dir():
        cwd = Path.cwd()
        log.warning("the folder in which %s was started does not exist: relative paths start from %s", original, cwd)
    arguments = [sys.executable, "-m", "sports_lightning.train", "--job", str(folder)]
    status = subprocess.run(arguments, cwd=cwd).returncode
    if status:
        raise UserError(f"the run could not be repeated: the training ended with exit status {status}")


@dataclass(frozen=True)
class RunRecord:
    """The results of a run and what they depend on, each by dotted key; `images` is {path: digest}."""

    results: dict[str, Any]
    provenance: dict[str, Any]
    images: dict[str, str]


def read_record(folder: Path) -> RunRecord:
    """Read the results, provenance and image digests of a run folder of train.

    Raises:
        UserError: the run is not finished, or the folder is incomplete.
    """
    try:
        results = flatten({**_metrics(folder), **_epochs(folder), **_weights(folder)})
        provenance = {
            name: value
            for name, value in flatten(_provenance(folder)).items()
            if not f"{name}.".startswith(_IGNORED) and not name.endswith(".fingerprint")
        }
        return RunRecord(results, provenance, read_digests(folder))
    except DAMAGED as error:
        raise UserError(f"run={folder} is not a complete folder of a finished run of train: {error}") from error


def compare_records(first: RunRecord, second: RunRecord) -> Outcome:
    """Compare two runs exactly, without any tolerance."""
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
