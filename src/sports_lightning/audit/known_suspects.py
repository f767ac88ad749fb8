"""The suspects that an earlier audit has found, for metrics without them."""

from pathlib import Path

from sports_lightning.audit.scan import DatasetScan
from sports_lightning.data.class_names import normalize
from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.errors import UserError
from sports_lightning.storage.files import DAMAGED, read_csv


def find_suspects(file: str | None, index: DatasetIndex, scan: DatasetScan | None = None) -> dict[str, set[str]]:
    """{split: paths of its images whose labels may be wrong}; empty without a file.

    An image is recognized by its content. If its label has been changed since the audit, it is no suspect any more.

    Args:
        file: `data.suspects`, the `suspects.csv` of an audit.
        index: the dataset.
        scan: of the whole dataset, if the index does not have all of its splits.

    Raises:
        UserError: no such file, or one of another dataset.
    """
    if file is None:
        return {}
    try:
        rows = read_csv(Path(file).expanduser())
        suspects = {(row["digest"], normalize(row["label"])) for row in rows}
        digests = {row["digest"] for row in rows if scan or row["split"] in index.splits}
    except DAMAGED as error:
        raise UserError(f"data.suspects={file} is not a suspects.csv that audit wrote: {error}") from error
    known = set(scan.digests) if scan else set()
    known = known.union(*(split.digests for split in index.splits.values()))
    if digests and not digests & known:
        raise UserError(f"data.suspects={file} is of another dataset: no image in it is in {index.root}")
    names = [normalize(name) for name in index.classes]
    return {
        name: {
            path
            for path, label, digest in zip(split.paths, split.labels.tolist(), split.digests, strict=True)
            if (digest, names[label]) in suspects
        }
        for name, split in index.splits.items()
    }
