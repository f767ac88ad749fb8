"""What a rule on config keys is, and how a config is checked against rules."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sports_lightning.config.values import Problem


@dataclass(frozen=True)
class Rule:
    """A combination of values that cannot work.

    Attributes:
        keys: whose values are checked; a key that the config does not have counts as null.
        is_broken: called with their values.
        message: for the user; `{0}`, `{1}`, … stand for the values.
    """

    keys: tuple[str, ...]
    is_broken: Callable[..., Any]
    message: str


def broken_rules(cfg: DictConfig, rules: Iterable[Rule], wrong_keys: Container[str]) -> list[Problem]:
    """Return all rules that a config breaks. A rule is skipped where one of its values is known to be wrong."""
    problems = []
    for rule in rules:
        if not any(key in wrong_keys for key in rule.keys):
            values = [OmegaConf.select(cfg, key) for key in rule.keys]
            if rule.is_broken(*values):
                shown = ["null" if value is None else value for value in values]
                problems.append(Problem(rule.keys[0], rule.message.format(*shown)))
    return problems


def required(key: str, example: str) -> Rule:
    """The rule that a key without a default has to be set."""
    return Rule((key,), lambda value: value is None, f"{key} is not set: pass {key}={example}")
