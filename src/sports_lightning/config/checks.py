"""Checks of a composed config before any work: types (schema), then rules. All mistakes are reported at once.

The checks convert values in place, such as `no` to false. No torch in here.
"""

import logging
import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import get_type_hints

from omegaconf import DictConfig, OmegaConf, open_dict

from sports_lightning.config import data_rules, groups, organize_rules, rules, schema
from sports_lightning.config.checkpoint_rules import AVERAGE, CHECKPOINT, DECISIONS, EXPORT, PREDICT, SERVE
from sports_lightning.config.earlier_versions import rename_config_keys
from sports_lightning.config.lightning import lightning_problems
from sports_lightning.config.monitors import monitor_problems, resolve_monitor_modes
from sports_lightning.config.rule import Rule, broken_rules, required
from sports_lightning.config.values import Problem, apply_schema
from sports_lightning.errors import UserError
from sports_lightning.storage.files import checkpoint_file

log = logging.getLogger(__name__)

_WANDB_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")


def normalize(cfg: DictConfig, command: type) -> list[Problem]:
    """Bring a composed config into the form that the program reads, in place.

    Keys of version 0.1 are renamed, words become booleans, a missing `logger` becomes an empty one, and the mode of a
    monitored metric is filled in.

    Args:
        cfg: the config of a command.
        command: its class in schema.

    Returns:
        The values that are wrong.
    """
    with open_dict(cfg):
        for notice in rename_config_keys(cfg):
            log.info("%s", notice)
        if issubclass(command, schema.Train):
            for group in ("callbacks", "logger"):
                if cfg.get(group) is None:  # logger=null on the command line
                    cfg[group] = {}
            resolve_monitor_modes(cfg)
        return apply_schema(cfg, command)


def normalize_composed(cfg: DictConfig, command: str) -> bool:
    """Normalize a config that Hydra has just composed, and return whether that changed it.

    Wrong values are left for the command's check.
    """
    before = _as_text(cfg)
    if command in schema.COMMANDS:
        normalize(cfg, schema.COMMANDS[command])
    return _as_text(cfg) != before


def check_train(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/train.yaml`."""
    _check(cfg, schema.Train, rules.TRAIN)


def check_benchmark(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/benchmark.yaml`."""
    _check(cfg, schema.Benchmark, rules.BENCHMARK)


def check_sweep(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/sweep/default.yaml`; each job checks its other values."""
    _raise_if_any(normalize(cfg, schema.SweepSettings))


def check_search(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of a config that includes Hydra's part, for `sweep=optuna`."""
    _check(cfg, schema.SweepSettings, rules.SEARCH)


def check_evaluate(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/evaluate.yaml`."""
    _check(
        cfg,
        schema.Evaluate,
        (*CHECKPOINT, *data_rules.CACHE, *data_rules.READING, *data_rules.DATASET),
    )
    checkpoint_file(cfg.ckpt_path)  # before imports that take seconds


def check_average(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/average.yaml`."""
    _check(cfg, schema.Average, (*AVERAGE, *data_rules.CACHE, *data_rules.READING, *data_rules.DATASET))
    for path in cfg.ckpt_path:
        checkpoint_file(path)


def check_predict(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/predict.yaml`."""
    required_input = required("input", "a file, a folder or a glob")
    _check(
        cfg,
        schema.Predict,
        (
            *CHECKPOINT,
            *DECISIONS,
            *PREDICT,
            *data_rules.READING,
            required_input,
        ),
    )
    checkpoint_file(cfg.ckpt_path)


def check_export(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/export.yaml`."""
    _check(cfg, schema.Export, (*EXPORT, *data_rules.CACHE, *data_rules.READING, *data_rules.DATASET))
    checkpoint_file(cfg.ckpt_path)


def check_serve(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/serve.yaml`, and if a package is missing that it needs."""
    _check(
        cfg,
        schema.Serve,
        (*CHECKPOINT, *DECISIONS, *SERVE, *data_rules.READING),
    )
    checkpoint_file(cfg.ckpt_path)
    if missing := [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]:
        raise UserError(f"serve needs {missing[0]}: pip install -e '.[serve]'")


def check_organize(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/organize.yaml`."""
    _check(cfg, schema.Organize, (*organize_rules.ORGANIZE, *DECISIONS, *data_rules.READING))
    if not (cfg.plan or cfg.undo):
        checkpoint_file(cfg.ckpt_path)


def check_audit(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/audit.yaml`."""
    _check(cfg, schema.Audit, rules.AUDIT)


def check_split(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/split.yaml`."""
    _check(cfg, schema.Split, data_rules.DATA)


def check_compare(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/compare.yaml`."""
    _check(cfg, schema.Compare, (required("runs", "[outputs/train]"),))


def check_reproduce(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/reproduce.yaml`."""
    _check(cfg, schema.Reproduce, (required("run", "outputs/train/RUN_FOLDER"),))


def check_report(cfg: DictConfig) -> None:
    """Raise UserError for all impossible values of `conf/report.yaml`."""
    _check(cfg, schema.Report, (required("run", "outputs/train/RUN_FOLDER"),))


def keys_without_effect(cfg: DictConfig, command: type) -> list[str]:
    """Keys that the schema does not have, in groups that pass nothing on, and that no `${…}` refers to.

    Hydra adds such a key if it is given with `+`, misspelled or not.
    """
    text = _as_text(cfg)
    return [
        f"{group}.{key}"
        for group, hint in get_type_hints(command, include_extras=True).items()
        if hint in groups.CLOSED_GROUPS and isinstance(cfg.get(group), DictConfig)
        for key in cfg[group]
        if key not in get_type_hints(hint) and f"${{{group}.{key}" not in text
    ]


def _as_text(cfg: DictConfig) -> str:
    """All values as they stand, `${…}` and types included; YAML would take ten times as long."""
    return repr(OmegaConf.to_container(cfg))


def _check(cfg: DictConfig, command: type, command_rules: Iterable[Rule]) -> None:
    problems = normalize(cfg, command)
    for key in keys_without_effect(cfg, command):
        log.warning("%s has no effect: %s has no such setting", key, key.partition(".")[0])
    problems += [*monitor_problems(cfg), *lightning_problems(cfg), *_wandb_problems(cfg)]
    problems += broken_rules(cfg, command_rules, {problem.key for problem in problems})
    _raise_if_any(problems)


def _wandb_problems(cfg: DictConfig) -> list[Problem]:
    """W&B's client checks its own environment only after all imports, and names the logger instead of the variable."""
    mode = os.environ.get("WANDB_MODE", "online")
    loggers = cfg.get("logger")
    nodes = loggers.values() if isinstance(loggers, DictConfig) else ()
    targets = [str(node.get("_target_")) for node in nodes if isinstance(node, DictConfig)]
    if mode in _WANDB_MODES or not any("wandb" in target.lower() for target in targets):
        return []
    return [
        Problem("logger", f"WANDB_MODE={mode} in the environment must be unset, or one of {', '.join(_WANDB_MODES)}")
    ]


def _raise_if_any(problems: list[Problem]) -> None:
    if problems:
        raise UserError("; ".join(dict.fromkeys(problem.message for problem in problems)))
