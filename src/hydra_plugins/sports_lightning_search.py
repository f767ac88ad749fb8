"""Where Hydra looks for plugins: the sweeper of sweep=optuna. What it does is in sports_lightning.sweeps.optuna_search.

Hydra imports this at every start: nothing heavy in here.
"""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sports_lightning.errors import UserError


class OptunaSweeper(Sweeper):
    """Lets Optuna choose the overrides of each job; `conf/hydra/sweeper/optuna.yaml` says what it takes."""

    def __init__(self, **settings: Any) -> None:  # they are in the config that setup gets
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self._config, self._loader = config, hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until there are enough.

        Raises:
            UserError: Optuna is not installed, and what `search` raises.
        """
        try:
            from sports_lightning.sweeps.optuna_search import search
        except ModuleNotFoundError as error:
            raise UserError(f"a search needs {error.name}: pip install -e '.[optuna]'") from error
        search(self._config, arguments, self._loader, self._launcher)
