"""Checks of the run folder once its path is known, before Hydra writes into it."""

from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sports_lightning.errors import ThroughHydra, UserError
from sports_lightning.runs.resume import check_output_subdir, check_run_folder
from sports_lightning.sweeps.start import check_outside_data


class RunStart(Callback):
    """Called by Hydra with the composed config of a run; `conf/hydra/base.yaml` declares it.

    Attributes:
        overwritten: content of the files of an interrupted run that Hydra is about to overwrite (`resume=auto`).
    """

    overwritten: ClassVar[dict[Path, bytes]] = {}

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a folder that holds another run, or is inside the images of `data.root`, however it is named.

        Raises:
            ThroughHydra: with the UserError. Hydra turns an Exception of a callback into a warning.
        """
        try:
            check_output_subdir(config.hydra.output_subdir)
            folder = Path(config.hydra.run.dir).absolute()
            check_outside_data(folder, config, "hydra.run.dir")
            RunStart.overwritten = check_run_folder(folder, resumes_auto=config.get("resume") == "auto")
        except UserError as error:
            raise ThroughHydra(error) from error
