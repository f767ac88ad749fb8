"""Assign images to splits: `python -m sports_lightning.split data.root=IMAGES`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.config.checks import check_split
from sports_lightning.errors import UserError
from sports_lightning.runs.layout import SPLIT_FILE


def split(cfg: DictConfig, folder: Path) -> None:
    """Assign the images that are in no split, and write `split.csv` and `split.json` into `folder`.

    Raises:
        UserError: images that can't be read or split, a dataset that has all splits already, or a folder with a split.
    """
    check_split(cfg)
    if (folder / SPLIT_FILE).exists():
        raise UserError(f"{folder} holds {SPLIT_FILE} already: choose another hydra.run.dir")
    from sports_lightning.split.dataset import open_dataset
    from sports_lightning.split.split_file import write_split_file

    index = open_dataset(cfg.data, ["train"], may_cut=True)
    if not index.is_recorded:
        raise UserError(f"{index.root} has the splits train and val: nothing to assign (see data.split.test)")
    write_split_file(index, cfg.data, folder)


COMMAND = Command("split", split)

if __name__ == "__main__":
    sys.exit(main(COMMAND))
