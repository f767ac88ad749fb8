"""Make a plan: look at the images that are new, decide about each, and find it a place."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig
from PIL import ExifTags

from sports_lightning.data.file_hashes import FileCheck, check_files, printable, read_file
from sports_lightning.data.formats import open_image
from sports_lightning.data.image_folder import list_images
from sports_lightning.data.leftovers import describe_ignored
from sports_lightning.errors import UserError
from sports_lightning.evaluate.decisions import DecisionSettings
from sports_lightning.inference.exported import AnyClassifier
from sports_lightning.organize.decisions_file import read_decisions
from sports_lightning.organize.file_operations import digest_of
from sports_lightning.organize.plan import NONE, PERSON, SURE, UNSURE, Plan, PlannedImage, place
from sports_lightning.organize.sidecars import find_companions
from sports_lightning.organize.targets import FreeNames, Pattern, folded
from sports_lightning.predict.prediction import predict_images
from sports_lightning.predict.results import Predictions
from sports_lightning.split.groups import join_groups
from sports_lightning.split.near_copies import find_near_copies
from sports_lightning.storage.disk_cache import resolve_cache_dir
from sports_lightning.storage.parallel import map_ahead, usable_cores

log = logging.getLogger(__name__)


def make_plan(classifier: AnyClassifier, cfg: DictConfig) -> Plan | None:
    """The plan for the images below `cfg.input` that are not below `cfg.to` yet; None if there are none.

    Args:
        classifier: with a rejection score and calibrated sets, if `cfg.reject` and `cfg.coverage` need them.
        cfg: `conf/organize.yaml`.

    Raises:
        UserError: no images, none of them readable, or a classifier that cannot decide so.
    """
    root, to = _absolute(cfg.input), _absolute(cfg.to)
    cache_dir = resolve_cache_dir(cfg.data)
    paths = _list(root)
    checks = dict(zip(paths, check_files(root, paths, cache_dir), strict=True))
    problems = {path: check.problem for path, check in checks.items() if check.problem}
    for path, problem in list(problems.items())[:20]:
        log.warning("not planned, because it cannot be read: %s: %s", path, problem)
    there = _digests_below(to, cache_dir)
    new = [path for path in paths if path not in problems and checks[path].digest not in there]
    if already := len(paths) - len(problems) - len(new):
        log.info("%d images are in %s already", already, to)
    if not new and already:
        return None
    check_folder_names(classifier.spec.classes, cfg)
    settings = DecisionSettings(cfg.reject, cfg.coverage, "lac")
    if not new:
        path, problem = next(iter(problems.items()))
        raise UserError(f"none of the images in input={root} can be read; {printable(path)}: {problem}")
    predictions = predict_images(
        classifier, [str(root / path) for path in new], cfg.inference, cfg.data.value_range, (), settings
    )
    assert predictions is not None
    images = _decided(predictions, root, read_decisions(to), checks)
    images = _with_copies(images, root, checks, classifier, cache_dir)
    pattern = Pattern(cfg.pattern)
    dates = _dates(root, images) if "{date" in cfg.pattern else {}
    companions = find_companions([str(root / each.image) for each in images])
    for shared in companions.shared:
        log.warning("%s belongs to several images: it stays with the first", shared)
    free, placed = FreeNames(to), []
    for image in images:
        names = dict.fromkeys(companions.of_image.get(str(root / image.image), []), "")
        date = dates.get(image.image)
        image = replace(image, companions=names, date=date.isoformat() if date else "")
        if image.label:
            image = place(image, free, pattern.target(image.label, image.image, date), list(cfg.tags))
        placed.append(image)
    states = _states(root, placed, checks)
    return Plan(str(root), str(to), cfg.mode, cfg.pattern, list(cfg.tags), states, placed)


def check_folder_names(classes: Sequence[str], cfg: DictConfig) -> None:
    """Raise UserError for a class that would share its folder with images that are rejected or unsure."""
    for name, setting in ((NONE, "reject"), (UNSURE, "coverage")):
        if cfg[setting] is not None and (same := [each for each in classes if folded(each.strip()) == name]):
            raise UserError(
                f"{setting}={cfg[setting]}: the checkpoint has a class {same[0]!r}, whose images would be mixed with "
                f"those that {setting} sends to {name}/: set {setting}=null"
            )


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _list(root: Path) -> list[str]:
    ignored: Counter[str] = Counter()
    paths = list_images(root, ignored)
    links = [path for path in paths if _is_through_link(root, path)]
    paths = [path for path in paths if path not in set(links)]
    if others := describe_ignored(ignored):
        log.info("other files: %s; those that belong to an image stay with it", others)
    if links:
        log.warning("%d linked images are left where they are, such as %s", len(links), links[0])
    if not paths:
        raise UserError(f"input={root} has no images")
    return paths


def _is_through_link(root: Path, path: str) -> bool:
    """Whether the path below `root` is a link, or leads through one."""
    parts = Path(path).parts
    return any(os.path.islink(root.joinpath(*parts[: i + 1])) for i in range(len(parts)))


def _digests_below(to: Path, cache_dir: Path) -> set[str]:
    """The digests of the images in a folder that files are sorted into."""
    if not to.is_dir():
        return set()
    paths = list_images(to)
    return {check.digest for check in check_files(to, paths, cache_dir)} - {""}


def _decided(
    predictions: Predictions, root: Path, by_person: Mapping[str, str], checks: Mapping[str, FileCheck]
) -> list[PlannedImage]:
    """A label for each image: by a person, or by rejection score and prediction set."""
    decisions = predictions.decisions
    assert decisions is not None
    _, ranked = predictions.ranked()
    images = []
    for i, path in enumerate(predictions.paths):
        image = os.path.relpath(path, root)
        suggested, probability = str(ranked[i][2]), float(ranked[i][1])
        score = None if decisions.scores is None else float(decisions.scores[i])
        decision = SURE
        if decisions.rejected is not None and decisions.rejected[i]:
            decision = NONE
        elif decisions.sets is not None and len(decisions.sets[i]) != 1:
            decision = UNSURE
        label = suggested if decision == SURE else decision
        digest = checks[image].digest
        if digest in by_person:
            label, decision = by_person[digest], PERSON
        images.append(PlannedImage(image, label, suggested, probability, score, decision, digest=digest))
    for path, problem in predictions.unreadable.items():
        log.warning("not planned, because it cannot be read: %s: %s", path, problem)
    return images


def _with_copies(
    images: list[PlannedImage], root: Path, checks: Mapping[str, FileCheck], classifier: AnyClassifier, cache_dir: Path
) -> list[PlannedImage]:
    """The images with their groups of near copies."""
    paths, digests = [each.image for each in images], [each.digest for each in images]
    pairs = find_near_copies(root, paths, digests, classifier.preprocessing.value_range, cache_dir)
    groups = join_groups(len(images), [(pair.first, pair.second) for pair in pairs]).tolist()
    sizes = Counter(groups)
    numbers = {group: i for i, group in enumerate((g for g in dict.fromkeys(groups) if sizes[g] > 1), 1)}
    best: dict[int, int] = {}
    for i, group in enumerate(groups):
        if group not in best or _quality(root, images[i], checks) > _quality(root, images[best[group]], checks):
            best[group] = i
    return [
        replace(image, copies=numbers.get(group, 0), is_best=group in numbers and best[group] == i)
        for i, (image, group) in enumerate(zip(images, groups, strict=True))
    ]


def _quality(root: Path, image: PlannedImage, checks: Mapping[str, FileCheck]) -> tuple[int, int]:
    return checks[image.image].pixels, os.path.getsize(root / image.image)


def _dates(root: Path, images: Sequence[PlannedImage]) -> dict[str, datetime]:
    """When each image was taken, as far as its EXIF data tell."""
    found = map_ahead(lambda image: _date(str(root / image.image)), images, usable_cores())
    return {image.image: date for image, date in zip(images, found, strict=True) if date}


def _date(path: str) -> datetime | None:
    try:
        with open_image(read_file(path)) as image:
            exif = image.getexif()
            text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(
                ExifTags.Base.DateTime
            )
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except Exception:  # Pillow raises a dozen types on damaged EXIF data
        return None


def _states(root: Path, images: Sequence[PlannedImage], checks: Mapping[str, FileCheck]) -> dict[str, list[int | str]]:
    """Size, modification time and digest of every image and companion."""
    states: dict[str, list[int | str]] = {}
    for image in images:
        folder = os.path.dirname(image.image)
        for path in (image.image, *(os.path.join(folder, name) for name in image.companions)):
            status = os.stat(root / path)
            digest = checks[path].digest if path in checks else digest_of(str(root / path))
            states[path] = [status.st_size, status.st_mtime_ns, digest]
    return states
