"""The Hydra plugin of sweep=optuna. The search itself is in `sports_lightning.sweeps.optuna_search`.

Hydra imports this module at every start, so it imports nothing heavy.
"""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sports_lightning.errors import UserError


class OptunaSweeper(Sweeper):
    """Lets Optuna choose the overrides of each job; `conf/hydra/sweeper/optuna.yaml` documents the settings."""

    def __init__(self, **settings: Any) -> None:  # unused: `setup` receives them in the config
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self._config, self._loader = config, hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search.

        Raises:
            UserError: Optuna is not installed, or the search can't work (see `search`).
        """
        try:
            from sports_lightning.sweeps.optuna_search import search
        except ModuleNotFoundError as error:
            raise UserError(f"a search needs {error.name}: pip install -e '.[optuna]'") from error
        search(self._config, arguments, self._loader, self._launcher)
