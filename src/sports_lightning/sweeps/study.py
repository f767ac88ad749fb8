"""The Optuna study of a search: created or opened by the sweep, opened by each trial's job."""

import warnings
from pathlib import Path
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, distribution_to_json
from sqlalchemy.exc import SQLAlchemyError

from sports_lightning.errors import UserError
from sports_lightning.runs.provenance import differences
from sports_lightning.sweeps.search_space import Direction

_SEARCH = "searches"  # the study's attribute with its search space and objectives


def open_study(
    settings: DictConfig,
    space: dict[str, BaseDistribution],
    fixed: list[str],
    directions: dict[str, Direction],
    folder: Path,
) -> optuna.Study:
    """Create the study of a sweep, or open it if the sweep is resumed.

    Args:
        settings: `conf/hydra/sweeper/optuna.yaml`.
        space: the search space.
        fixed: overrides that all trials share.
        directions: the objectives.
        folder: the sweep folder.

    Raises:
        UserError: the study belongs to another sweep or has another search space, or its storage can't be opened.
    """
    _silence_optuna()
    storage = _storage_url(settings, folder)
    try:
        study = optuna.create_study(
            storage=storage, study_name=settings.study, directions=list(directions.values()), load_if_exists=True
        )
    except (ValueError, ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"hydra.sweeper.storage={storage} with study {settings.study}: {reason}") from error
    wanted: dict[str, Any] = {key: distribution_to_json(distribution) for key, distribution in space.items()}
    wanted |= {**directions, "settings": sorted(fixed), "folder": str(folder)}
    stored = study.user_attrs.get(_SEARCH)
    if stored and not settings.storage:  # the study lies in the sweep folder, which may have been moved
        stored = {**stored, "folder": str(folder)}
    if stored is None and not study.trials:
        study.set_metric_names(list(directions))
        study.set_user_attr(_SEARCH, wanted)
    elif stored != wanted:
        keys = ", ".join(differences(stored or {}, wanted))
        raise UserError(
            f"the study {settings.study} in {storage} belongs to another search (different: {keys}): "
            f"choose another hydra.sweeper.study=NAME"
        )
    return study


def open_trial(settings: DictConfig, folder: Path, number: int) -> optuna.Trial:
    """Open a trial of a running search, to report intermediate values from its job."""
    _silence_optuna()
    study = optuna.load_study(
        study_name=settings.study, storage=_storage_url(settings, folder), pruner=instantiate(settings.pruner)
    )
    return optuna.Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def _storage_url(settings: DictConfig, folder: Path) -> str:
    return settings.storage or f"sqlite:///{folder.absolute() / 'study.db'}"


def _silence_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
