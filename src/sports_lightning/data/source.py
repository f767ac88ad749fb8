"""Sources of datasets: an existing folder, a manifest, the Hugging Face Hub, Kaggle, or the synthetic sample."""

import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.data.folder_layout import UNSPLIT, recognize
from sports_lightning.data.hub import HUGGING_FACE
from sports_lightning.data.hub_table import list_hub_dataset
from sports_lightning.data.image_folder import describe_nested, list_image_folder
from sports_lightning.data.image_table import ImageTable
from sports_lightning.data.leftovers import describe_ignored
from sports_lightning.data.manifest import read_manifest
from sports_lightning.data.sample.dataset import draw_sample
from sports_lightning.errors import UserError, import_extra
from sports_lightning.storage.files import sync_to_disk
from sports_lightning.storage.locks import one_at_a_time

log = logging.getLogger(__name__)


def provide_data(data: DictConfig) -> Path:
    """Generate the sample or download the Kaggle dataset of `conf/data/*.yaml` if it is missing, and return its root.

    Raises:
        UserError: the data is missing and is not to be downloaded, or the download fails.
    """
    root = Path(str(data.root)).expanduser()
    if root.exists() or not data.source:
        return root
    if data.source != "sample" and not data.download:
        raise UserError(
            f"data.root={root} does not exist: set data.root=FOLDER if you have {data.source}, "
            f"data.download=true to fetch it from Kaggle, or data=sample to try the synthetic sample"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(root, str(root)):
        if data.source == "sample":
            draw_sample(root)
        elif not root.exists():  # otherwise another process has downloaded it in the meantime
            _download(data.source, root)
    return root


def list_dataset(data: DictConfig) -> ImageTable:
    """List the images of the dataset that `conf/data/*.yaml` names, which is generated or downloaded if necessary.

    Files that are not read are counted in one line of the log.

    Raises:
        UserError: missing data, a folder whose layout is ambiguous, or a manifest with a wrong row.
    """
    if data.manifest:
        return _list_manifest(data)
    if data.source == HUGGING_FACE:
        return list_hub_dataset(data)
    table = list_image_folder(provide_data(data), data.classes == "leaf")
    if described := describe_ignored(table.ignored):
        log.info("skipped: %s", described)
    if nested := describe_nested(table):
        log.info("folders within class folders are taken together as one class: %s", nested)
    return table


def _list_manifest(data: DictConfig) -> ImageTable:
    """The images of a manifest, whose paths may be those of a Kaggle or Hugging Face dataset."""
    root = None if data.root is None else Path(str(data.root)).expanduser()
    origin = {}
    if data.source == HUGGING_FACE:
        origin = {"source": HUGGING_FACE, "name": data.name, "subset": data.subset, "revision": data.revision}
        if root is None or not root.is_dir():
            loaded = list_hub_dataset(data)
            root, origin = loaded.root, loaded.origin
    elif root:
        root = provide_data(data)
    return replace(read_manifest(Path(str(data.manifest)).expanduser(), root, data.manifest_columns), origin=origin)


def _download(handle: str, root: Path) -> None:
    """Download a Kaggle dataset and copy it to `root`; if it has folders of splits, these and nothing else."""
    kagglehub = import_extra("kagglehub", "data.download=true needs kagglehub", "download")
    try:
        fetched = Path(kagglehub.dataset_download(handle))
    except Exception as error:  # requests, kagglehub and zipfile each raise their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"can't download {handle} from Kaggle ({reason}); go online or set data.root=FOLDER") from error
    folders = recognize(fetched).folders
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))  # one per process
    try:
        for folder in ["."] if UNSPLIT in folders else folders.values():
            shutil.copytree(fetched / folder, partial / folder, dirs_exist_ok=True)
        partial.chmod(0o755)
        sync_to_disk(partial)
        partial.rename(root)
    except OSError:
        if not root.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
