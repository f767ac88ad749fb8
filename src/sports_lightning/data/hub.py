"""Datasets of the Hugging Face Hub, and local ones in its formats, loaded by the library `datasets`.

`datasets` downloads the files, and writes their rows once as Arrow files into its own cache (HF_HOME), which it shares
with other programs. It refuses datasets that would run code.
"""

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sports_lightning.errors import UserError, import_extra
from sports_lightning.storage.reachability import why_unreachable

log = logging.getLogger(__name__)

HUGGING_FACE = "huggingface"  # the value of data.source
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAVED = ("dataset_dict.json", "state.json")  # written by save_to_disk


@dataclass(frozen=True)
class HubDataset:
    """A dataset whose rows are in Arrow files.

    Attributes:
        name: for messages.
        splits: {its own name of a split: Arrow files}.
        features: {column: feature of `datasets`}.
        revision: the commit on the Hub; None for a local dataset.
    """

    name: str
    splits: dict[str, list[str]]
    features: Mapping[str, Any]
    revision: str | None


def load_hub_dataset(name: str, subset: str | None, revision: str | None) -> HubDataset:
    """Load a dataset, from the cache if it has been loaded before.

    Args:
        name: OWNER/NAME on the Hub; a local folder of Parquet files, of images (`imagefolder`) or of `save_to_disk`; or
            a Parquet file.
        subset: what `datasets` calls a configuration; needed if there are several.
        revision: branch, tag or commit; None is the main branch, or without network the latest one that is cached.

    Raises:
        UserError: missing library, no such dataset, no access, no network, or files that can't be read.
    """
    datasets = import_extra("datasets", "data=huggingface needs datasets", "huggingface")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    path = Path(name).expanduser()
    try:
        if not path.exists():
            _check_name(name)
            with _offline_if_unreachable(datasets):
                loaded, commit = _from_hub(datasets, name, subset, revision)
        else:
            loaded, commit = _from_disk(datasets, path, subset), None
    except UserError:
        raise
    except Exception as error:  # datasets, huggingface_hub, httpx, fsspec and pyarrow each raise their own
        raise UserError(f"can't load data.name={name}: {_reason(error)}") from error
    if not isinstance(loaded, dict):
        loaded = {"train": loaded}
    splits = {str(split): [part["filename"] for part in rows.cache_files] for split, rows in loaded.items()}
    features = next(iter(loaded.values())).features
    return HubDataset(name, splits, features, commit)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"data.name={name} does not exist: give a local folder, or OWNER/NAME of the Hugging Face Hub")


@contextmanager
def _offline_if_unreachable(datasets: Any) -> Iterator[None]:
    """Use the cache at once if the Hub can't be reached; `datasets` itself retries for half a minute."""
    from huggingface_hub import constants, get_session

    was_offline = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not any(was_offline):
        session = get_session()
        reason = why_unreachable(constants.ENDPOINT, head=lambda url, timeout: session.head(url, timeout=timeout))
        if reason:
            log.warning("can't reach %s (%s): looking in the cache only", constants.ENDPOINT, reason)
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = was_offline


def _from_hub(datasets: Any, name: str, subset: str | None, revision: str | None) -> tuple[Any, str]:
    builder = datasets.load_dataset_builder(name, subset, revision=revision)
    commit = str(builder.hash)
    if revision not in (None, commit) and commit != _commit_of(name, str(revision)):
        raise UserError(
            f"data.revision={revision} of {name} is not in the cache, and can't be loaded: go online, or set "
            f"data.revision={commit}, which is in the cache"
        )
    builder.download_and_prepare()
    return builder.as_dataset(), commit


def _commit_of(name: str, revision: str) -> str:
    """The commit of a branch or tag. Without network, `datasets` loads whatever is cached, whatever the revision."""
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except Exception:  # no network
        return ""


def _from_disk(datasets: Any, path: Path, subset: str | None) -> Any:
    if any((path / file).exists() for file in _SAVED):
        return datasets.load_from_disk(str(path))
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise UserError(f"data.name={path} must be a folder or a .parquet file; other tables: data.manifest={path}")
        return datasets.load_dataset("parquet", data_files=str(path))
    return datasets.load_dataset(str(path), subset)


def _reason(error: Exception) -> str:
    """Why loading failed, and the remedy, on one line."""
    first: BaseException = error
    while first.__cause__ is not None:  # "An error occurred while generating the dataset"
        first = first.__cause__
    text = " ".join(str(error).split())
    root = " ".join(str(first).split())
    kind = type(error).__name__
    if "gated" in text:
        return f"{text}; log in with `hf auth login`"
    if kind == "DatasetNotFoundError":
        return f"{text}; check the name, and log in with `hf auth login` if it is private"
    if isinstance(error, ConnectionError):
        return f"{text}; go online, or give the name of a local folder"
    if "Config name is missing" in text or "BuilderConfig" in text:
        return f"{text[:300]}; set data.subset"
    if isinstance(first, OSError) and first.errno:
        return f"{os.strerror(first.errno)}; HF_HOME=FOLDER sets another place for downloads"
    return root[:300] or kind
