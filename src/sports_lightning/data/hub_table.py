"""The images of a Hugging Face dataset as a table: its columns of images, labels and groups, and its splits."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sports_lightning.data.arrow_images import embedded, read_table, row_folder, row_name
from sports_lightning.data.class_names import listed
from sports_lightning.data.folder_layout import SPLITS, split_named
from sports_lightning.data.hub import HUGGING_FACE, HubDataset, load_hub_dataset
from sports_lightning.data.image_table import UNASSIGNED, ImageTable
from sports_lightning.data.manifest import COLUMNS, build_table, class_name, split_code
from sports_lightning.errors import UserError

log = logging.getLogger(__name__)

_KEY = "data.manifest_columns"
_TEXT, _NUMBERS = ("string", "large_string"), ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def list_hub_dataset(data: DictConfig) -> ImageTable:
    """List the images of the dataset `data.name` in the order of split, class and path.

    Images embedded in Arrow files have the paths of `arrow_images`; others are the files that the dataset names. Only
    the columns of labels, splits and groups are read.

    Args:
        data: `conf/data/*.yaml`.

    Raises:
        UserError: see `load_hub_dataset`; no column or several of images or labels, a row without a label, or splits
            that are not train, val and test.
    """
    dataset = load_hub_dataset(str(data.name), data.subset, data.revision)
    columns = _find_columns(dataset, data.manifest_columns)
    codes = _split_codes(dataset, columns)
    found = {split: list(_rows(dataset, split, code, columns)) for split, code in codes.items()}
    unlabeled = [split for split, rows in found.items() if rows and all(label is None for _, label, *_ in rows)]
    rows = [row for split, rows in found.items() if split not in unlabeled for row in _labeled(dataset.name, rows)]
    if not rows:
        raise UserError(f"{dataset.name} has no labels in the column {columns['label']!r}: set {_KEY}.label=COLUMN")
    _log(dataset, columns, unlabeled, codes)
    root = os.path.commonpath({os.path.dirname(path) for *_, path, _ in rows})
    while not os.path.isdir(root):  # inside an Arrow file
        root = os.path.dirname(root)
    start = len(root.rstrip(os.sep)) + 1
    relative = [(code, label, path[start:], group) for code, label, path, group in rows]
    origin = {
        "source": HUGGING_FACE,
        "name": _absolute(str(data.name)),
        "subset": data.subset,
        "revision": dataset.revision,
        "manifest_columns": dict(data.manifest_columns),
    }
    return replace(build_table(dataset.name, Path(root), relative), origin=origin)


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _find_columns(dataset: HubDataset, wanted: Mapping[str, str]) -> dict[str, str]:
    """{role: column}, by the names in `data.manifest_columns` or else by the type of their feature."""
    features = dataset.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    used = {}
    for role in COLUMNS:
        kind = {"image": "Image", "label": "ClassLabel"}.get(role)
        typed = [name for name, found in kinds.items() if found == kind]
        if wanted[role] in features:
            used[role] = wanted[role]
        elif wanted[role] != role or (kind and len(typed) != 1):
            found = f"{'no column' if not typed else 'several columns'} of type {kind}" if wanted[role] == role else ""
            raise UserError(
                f"{dataset.name} has {found or f'no column {wanted[role]!r}'}: set {_KEY}.{role} to one of "
                f"{', '.join(map(repr, typed or features))}"
            )
        elif kind:
            used[role] = typed[0]
    _check_types(dataset.name, features, used)
    return used


def _check_types(name: str, features: Mapping[str, Any], used: dict[str, str]) -> None:
    image, label = features[used["image"]], features[used["label"]]
    is_stored = isinstance(image, dict) and set(image) == {"bytes", "path"}  # Parquet files without their features
    is_binary = getattr(image, "dtype", "") in ("binary", "large_binary")
    if type(image).__name__ != "Image" and not is_stored and not is_binary:
        remedy = "; a table with the paths of images is read by data.manifest=FILE.parquet"
        raise UserError(f"{name}: the column {used['image']!r} has no images, but {_describe(image)}{remedy}")
    if type(label).__name__ != "ClassLabel" and getattr(label, "dtype", "") not in (*_TEXT, *_NUMBERS):
        raise UserError(f"{name}: the column {used['label']!r} has no classes, but {_describe(label)}")


def _describe(feature: Any) -> str:
    return f"values of type {getattr(feature, 'dtype', None) or type(feature).__name__}"


def _split_codes(dataset: HubDataset, columns: Mapping[str, str]) -> dict[str, int]:
    """{name of a split that is used: its position in `SPLITS`, or `UNASSIGNED`}.

    `datasets` calls a dataset without splits "train", so that a single split of this name is no split.
    """
    names = list(dataset.splits)
    roles = {name: split_named(name) for name in names}
    if len(names) == 1 and roles[names[0]] in ("train", None):
        return {names[0]: UNASSIGNED}
    for role in SPLITS:
        same = [name for name in names if roles[name] == role]
        if len(same) > 1:
            raise UserError(f"{dataset.name} has two splits for {role}, {same[0]!r} and {same[1]!r}")
    codes = {name: SPLITS.index(role) for name, role in roles.items() if role}
    if not codes:
        raise UserError(f"{dataset.name} has the splits {listed(names)}, none of which is train, validation or test")
    return codes


Row = tuple[int, Any, str, str]  # code of the split, label or None, path, group


def _rows(dataset: HubDataset, split: str, code: int, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a split; a label that a class label does not know (-1) is None."""
    feature = dataset.features[columns["label"]]
    names = getattr(feature, "names", None)
    for file in dataset.splits[split]:
        table = read_table(file)
        labels = table.column(columns["label"]).to_pylist()
        if names is not None:
            labels = [names[value] if value is not None and value >= 0 else None for value in labels]
        codes: Any = [code] * len(labels)
        if "split" in columns and code == UNASSIGNED:
            values = table.column(columns["split"]).to_pylist()
            codes = [split_code(f"{dataset.name}, row {i}", str(value or "")) for i, value in enumerate(values)]
        groups: Any = [""] * len(labels)
        if "group" in columns:
            values = table.column(columns["group"]).to_pylist()
            groups = ["" if value is None or value != value else str(value).strip() for value in values]  # NaN, too
        yield from zip(codes, labels, _paths(file, table, columns["image"]), groups, strict=True)


def _paths(file: str, table: Any, column: str) -> Iterator[str]:
    """The absolute paths of the images in an Arrow file: rows of it, or the files that it names."""
    folder = row_folder(os.path.abspath(file), column)
    number = 0
    for chunk in table.column(column).chunks:
        content = embedded(chunk)
        outside: Any = [None] * len(chunk)
        if content.null_count and content is not chunk:
            missing = content.is_null().to_pylist()
            files = chunk.field("path").to_pylist()
            outside = [name if name and is_missing else None for name, is_missing in zip(files, missing, strict=True)]
        for name in outside:
            yield os.path.abspath(name) if name else f"{folder}/{row_name(number)}"
            number += 1


def _labeled(name: str, rows: list[Row]) -> Iterator[tuple[int, str, str, str]]:
    """The rows with their classes; the class of each label is computed once."""
    known: dict[Any, str] = {}
    for number, (code, label, path, group) in enumerate(rows):
        if label not in known:
            known[label] = class_name(f"{name}, row {number}", label)
        yield code, known[label], path, group


def _log(dataset: HubDataset, columns: Mapping[str, str], unlabeled: list[str], codes: Mapping[str, int]) -> None:
    named = ", ".join(f"{role} is {column!r}" for role, column in columns.items())
    log.info("%s: column %s%s", dataset.name, named, f"; revision {dataset.revision}" if dataset.revision else "")
    unused = [name for name in dataset.splits if name not in codes]
    for what, names in (("without labels", unlabeled), ("of another name", unused)):
        if names:
            log.info("%s: not used, because %s: %s", dataset.name, f"the split is {what}", ", ".join(names))
