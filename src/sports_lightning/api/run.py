"""A run folder in Python: config, metrics, tables and the best checkpoint."""

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sports_lightning.api.table import parse_numbers, table
from sports_lightning.config.trees import map_strings
from sports_lightning.errors import UserError
from sports_lightning.runs.layout import is_finished
from sports_lightning.runs.provenance import read_provenance
from sports_lightning.runs.resume import load_config, load_hydra_config
from sports_lightning.storage.files import DAMAGED, read_csv

if TYPE_CHECKING:
    from sports_lightning.api.image_classifier import ImageClassifier


class Run:
    """The folder of a finished run of `train` or `evaluate`, see `open_run`.

    Tables are DataFrames where pandas is installed, lists of dicts elsewhere.

    Attributes:
        folder: absolute path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __fspath__(self) -> str:
        return str(self.folder)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """{split: {metric: value}} of `metrics.json`; `ci95` holds the 95 % intervals by metric."""
        return self._read(lambda: dict(json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))))

    @cached_property
    def config(self) -> DictConfig:
        """The config of the run, by the keys of this version; `${hydra:…}` is replaced by its value."""
        hydra_cfg = OmegaConf.create(load_hydra_config(self.folder))
        OmegaConf.update(hydra_cfg, "hydra.runtime.output_dir", str(self.folder))  # to which it may have been moved
        return OmegaConf.create(_with_hydra_values(load_config(self.folder), hydra_cfg))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The content of `run.json`: command, code, packages, machine, data, cost."""
        return self._read(lambda: read_provenance(self.folder))

    @cached_property
    def predictions(self) -> Any:
        """One row per image of the test split, as in `predictions.csv`; of the validation split without a test."""
        return self._table("predictions.csv", text=("path", "label", "prediction"))

    @cached_property
    def epochs(self) -> Any:
        """One row per epoch with its training and validation metrics, as in `metrics.csv`.

        Raises:
            UserError: a run of `evaluate`.
        """
        self._check_trained()
        return self._table("metrics.csv")

    @property
    def best(self) -> dict[str, Any]:
        """The row of `epochs` of the best epoch, whose weights are in the checkpoint.

        Raises:
            UserError: a run of `evaluate`.
        """
        self._check_trained()
        epoch = self._read(lambda: self.provenance["best_epoch"])
        rows = map(parse_numbers, self._read(lambda: read_csv(self.folder / "metrics.csv")))
        return self._read(lambda: next(row for row in rows if row["epoch"] == epoch))

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "checkpoints" / "best.ckpt"

    def load(self, device: str = "auto") -> "ImageClassifier":
        """Load the classifier of the best epoch, see `sports_lightning.load`."""
        from sports_lightning.api.image_classifier import load

        return load(self.checkpoint, device)

    def _read(self, read: Callable[[], Any]) -> Any:
        """Call a function that reads a file of the run.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return read()
        except DAMAGED as error:
            raise UserError(f"{self.folder} is damaged or not complete: {error}") from error

    def _check_trained(self) -> None:
        if not (self.folder / "metrics.csv").is_file():
            raise UserError(f"{self.folder} holds a run of evaluate, which has no epochs")

    def _table(self, name: str, text: Sequence[str] = ()) -> Any:
        def is_text(column: str) -> bool:
            return column in text or (column.startswith("top") and column[3:].isdecimal())

        rows = self._read(lambda: read_csv(self.folder / name))
        return table({**parse_numbers(row), **{k: v for k, v in row.items() if is_text(k)}} for row in rows)


def open_run(folder: str | Path) -> Run:
    """Open the folder of a finished run, also one of version 0.1.

    Raises:
        UserError: not a run folder, or the run is not finished.
    """
    path = Path(folder).expanduser().absolute()
    if not (path / ".hydra" / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder of train or evaluate")
    if not is_finished(path):
        raise UserError(f"{folder} holds a run that is not finished: it has no metrics.json")
    return Run(path)


def _with_hydra_values(tree: Any, hydra_cfg: DictConfig) -> Any:
    """A config with the value of each `${hydra:KEY}` in it, where it can be resolved."""

    def resolved(found: re.Match[str]) -> str:
        value = OmegaConf.select(hydra_cfg, f"hydra.{found[1]}", throw_on_resolution_failure=False)
        return found[0] if value is None else str(value).replace("${", r"\${")

    return map_strings(lambda text: re.sub(r"\$\{hydra:([\w.]+)\}", resolved, text), tree)
