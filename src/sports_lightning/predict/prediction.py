"""Predictions for unlabeled images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig
from torch import Tensor

from sports_lightning.data.file_hashes import FileCheck, printable, reading_problem
from sports_lightning.data.formats import pixel_limit
from sports_lightning.data.value_range import Setting, value_range_for_checkpoint
from sports_lightning.errors import UserError
from sports_lightning.evaluate.decisions import DecisionSettings, decide
from sports_lightning.inference.exported import AnyClassifier, ExportedModel
from sports_lightning.inference.input_files import InputFiles
from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.parts import OutputParts, Part, PartWriter
from sports_lightning.inference.predictor import output_settings, run_readable
from sports_lightning.inference.ranks import Ranks
from sports_lightning.models.classifier import Classifier
from sports_lightning.predict.inputs import find_high_depths
from sports_lightning.predict.results import Predictions
from sports_lightning.storage.disk_cache import cache_key


@dataclass(frozen=True)
class SharedWork:
    """How the work of a long prediction is shared and kept.

    Attributes:
        folder: holds finished parts, which a later command uses; None: a temporary folder.
        checkpoint: digest of the file of the classifier.
        ranks: the processes that share the work.
    """

    folder: Path | None = None
    checkpoint: str = ""
    ranks: Ranks = field(default_factory=Ranks)


def predict_images(
    classifier: AnyClassifier,
    paths: list[str],
    inference: DictConfig,
    value_range: Setting = "auto",
    save: Sequence[str] = (),
    settings: DecisionSettings | None = None,
    work: SharedWork | None = None,
    may_be_empty: bool = False,
) -> Predictions | None:
    """Predict the images at `paths`; files that cannot be read are listed in the result.

    Args:
        classifier: its value range is set to the one in use.
        paths: the files.
        inference: `conf/inference/*.yaml`.
        value_range: `data.value_range`; "auto" uses that of the classifier.
        save: see `Predictions`.
        settings: which decisions are made beyond the probabilities.
        may_be_empty: whether it is fine that none of the files can be read.
        work: where finished parts are kept, and who shares the work; None: nowhere, and nobody.

    Returns:
        The predictions; on ranks other than the first, None.

    Raises:
        UserError: none of the files can be read, a model that has no features, or a classifier that cannot decide so.
    """
    settings, work = settings or DecisionSettings(), work or SharedWork()
    settings.check(classifier)
    if not paths:
        none = torch.empty(0, len(classifier.spec.classes))
        return Predictions([], none, classifier.spec.classes, {}) if work.ranks.rank == 0 else None
    if "features" in save and isinstance(classifier, ExportedModel):
        raise UserError("save=[features]: an exported file has no features: pass the checkpoint")
    without_range = _set_value_range(classifier, value_range, find_high_depths(paths, work.ranks))
    readable = [path for path in paths if path not in without_range]
    collected = _outputs(classifier, readable, inference, "features" in save, work)
    if collected is None:
        return None
    outputs, problems = collected
    unreadable = {path: problems.get(path) or without_range[path] for path in paths if path in problems | without_range}
    if len(unreadable) == len(paths) and not may_be_empty:
        path, reason = next(iter(unreadable.items()))
        raise UserError(f"none of the {len(paths)} files can be read as an image; {printable(path)}: {reason}")
    logits, features = outputs.split([len(classifier.spec.classes), outputs.shape[1] - len(classifier.spec.classes)], 1)
    return Predictions(
        [path for path in readable if path not in problems],
        logits.contiguous(),
        classifier.spec.classes,
        unreadable,
        classifier.preprocessing.value_range,
        save,
        features.contiguous() if "features" in save else None,
        decide(classifier, logits, settings),
    )


def _outputs(
    classifier: AnyClassifier, paths: Sequence[str], inference: DictConfig, with_features: bool, work: SharedWork
) -> tuple[Tensor, dict[str, str]] | None:
    """Logits, and features, of the readable files, and {path: reason} for the others; None on ranks but the first."""
    with TemporaryDirectory() as temporary:
        key = _key(classifier, work.checkpoint, inference, with_features)
        parts = OutputParts(work.folder or Path(temporary), paths, key)
        _complete(parts, classifier, inference, with_features, work.ranks)
        collected = _collect(parts, len(classifier.spec.classes), work.ranks)
        if collected and not len(collected[0]):
            parts.remove()
    return collected


def logits_and_features(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits and features of a batch of images, (n, classes + features)."""
    return torch.cat([classifier(images), classifier.features(images)], dim=1)


def _key(classifier: AnyClassifier, checkpoint: str, inference: DictConfig, with_features: bool) -> str:
    """Fingerprint of what the outputs for an image depend on."""
    settings = [*output_settings(inference), torch.get_num_threads(), pixel_limit(), with_features]
    return cache_key(__name__, checkpoint, classifier.spec.preprocessing, settings)


def _complete(
    parts: OutputParts, classifier: AnyClassifier, inference: DictConfig, with_features: bool, ranks: Ranks
) -> None:
    """Compute the parts that are missing, each process its share of them."""
    function = logits_and_features if with_features else Classifier.forward

    def compute(settings: DictConfig) -> None:
        missing = [part for part in ranks.share(range(len(parts))) if parts.load(part) is None]
        if not missing:
            return
        paths = [parts.paths[i] for part in missing for i in parts.positions(part)]
        files = InputFiles(paths, classifier.preprocessing)
        run_readable(function, classifier, files, settings, PartWriter(parts, missing, reading_problem).receive)

    halve_batch_on_out_of_memory(compute, inference)


def _collect(parts: OutputParts, classes: int, ranks: Ranks) -> tuple[Tensor, dict[str, str]] | None:
    """The outputs (n, …) float32 for the n readable files, and {path: reason} for the others; on the first rank.

    Other ranks send those of their parts that the first rank does not see, because the disk is not shared.
    """
    ranks.gather(None)  # all parts are computed
    found = [parts.load(part) for part in range(len(parts))] if ranks.rank == 0 else []
    unseen = ranks.gather([part for part, content in enumerate(found) if content is None])[0]
    loaded = {part: parts.load(part) for part in unseen} if ranks.rank != 0 else {}
    sent: dict[int, Part] = {}
    for of_rank in ranks.gather_on_first({part: content for part, content in loaded.items() if content}):
        sent |= of_rank
    if ranks.rank != 0:
        return None
    outputs: list[Tensor] = []
    problems: dict[str, str] = {}
    for part, content in enumerate(found):
        content = content or sent[part]
        paths = [parts.paths[i] for i in parts.positions(part)]
        problems |= {paths[i]: reason for i, reason in content.problems.items()}
        outputs.append(content.outputs[[i for i in range(len(paths)) if i not in content.problems]])
    return torch.cat(outputs) if outputs else torch.empty(0, classes), problems


def _set_value_range(classifier: AnyClassifier, setting: Setting, checks: Mapping[str, FileCheck]) -> dict[str, str]:
    """Set the value range of the classifier, and return {path: reason} of the 16- and 32-bit images that have none.

    Args:
        classifier: the classifier.
        setting: `data.value_range`.
        checks: of the images of more than 8 bits, by path.
    """
    unreadable: dict[str, str] = {}
    stored = classifier.preprocessing.value_range
    if setting == "auto" and stored is None:  # then an answer must not depend on what else is predicted
        groups = [[path] for path in checks]
    else:
        kinds = sorted({check.high_depth for check in checks.values()})
        groups = [[path for path, check in checks.items() if check.high_depth == kind] for kind in kinds]
    for group in groups:
        where = "the image" if len(group) == 1 else "the input"
        try:
            found = value_range_for_checkpoint(stored, setting, [checks[path] for path in group], where)
            classifier.set_value_range(found or classifier.preprocessing.value_range)
        except UserError as error:
            unreadable |= dict.fromkeys(group, str(error))
    return unreadable
