"""The search space and the objectives of a search, from overrides and settings."""

from collections.abc import Sequence
from typing import Any, Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sports_lightning.errors import UserError
from sports_lightning.runs.layout import COSTS, METRICS

Direction = Literal["maximize", "minimize"]


def search_space(
    arguments: Sequence[str], loader: ConfigLoader | None = None
) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Split overrides into the search space, {key: distribution}, and the overrides that all trials share.

    `key=interval(a,b)` is a real number between a and b (`int(…)`: an integer, `tag(log,…)`: on a logarithmic scale),
    `key=range(a,b)` an integer, `key=a,b,…` one of these values. A later override of a key replaces an earlier one.

    Raises:
        UserError: there is nothing to search, or a distribution is impossible.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create(loader).parse_overrides(list(arguments)):
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            try:
                space[key] = _distribution(override)
            except (ValueError, IndexError) as error:
                raise UserError(f"{override.input_line}: {' '.join(str(error).split())}") from error
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise UserError("the search space is empty: add a key, such as 'optimizer.lr=tag(log,interval(1e-4,0.1))'")
    return space, list(fixed.values())


def _distribution(override: Override) -> BaseDistribution:
    value: Any = override.value()
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep) and all(isinstance(n, int) for n in (value.start, value.stop, value.step)):
        values = sorted(value.range())
        return IntDistribution(values[0], values[-1], step=abs(value.step))  # type: ignore[arg-type]
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def check_space_composes(
    space: dict[str, BaseDistribution], fixed: list[str], config: DictConfig, loader: ConfigLoader
) -> None:
    """Compose a job with each value of each categorical key (the lower bound of others), to report wrong keys early."""
    values = {key: list(getattr(d, "choices", None) or [d.low]) for key, d in space.items()}  # type: ignore[attr-defined]
    for key, choices in values.items():
        for value in choices:
            params = {**{key: first for key, (first, *_) in values.items()}, key: value}
            loader.load_sweep_config(config, [*fixed, *(f"{name}={value}" for name, value in params.items())])


def objectives(settings: DictConfig) -> dict[str, Direction]:
    """{metric: direction} of `conf/hydra/sweeper/optuna.yaml`.

    Raises:
        UserError: there is no objective, or it is unknown or on the test split.
    """
    directions: dict[str, Direction] = dict.fromkeys(settings.maximize, "maximize")
    directions |= dict.fromkeys(settings.minimize, "minimize")
    if not directions:
        raise UserError("the search has no objective: set hydra.sweeper.maximize=[val/acc], or minimize")
    known = [*COSTS, *(f"val/{name}" for name in (*METRICS, "ece", "brier"))]
    for name in directions:
        if name.startswith("test/"):
            raise UserError(
                f"{name} can't be an objective: the test split is for the final estimate; choose one of val/…"
            )
        if name not in known:
            raise UserError(f"{name} can't be an objective: choose one of {', '.join(known)}")
    return directions
