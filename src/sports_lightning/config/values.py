"""Config values against the types of a schema: words become booleans, wrong values become one message each.

Hydra reads `no`, `off` and the like as text, and text is true in a condition.
"""

import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, ListConfig, OmegaConf

_TRUE_WORDS, _FALSE_WORDS = ("true", "yes", "on", "y"), ("false", "no", "off", "n")


@dataclass(frozen=True)
class AtLeast:
    """An inclusive lower bound."""

    bound: float

    def __contains__(self, number: float) -> bool:
        return number >= self.bound

    def __str__(self) -> str:
        return f"{self.bound} or more"


@dataclass(frozen=True)
class Above:
    """An exclusive lower bound."""

    bound: float

    def __contains__(self, number: float) -> bool:
        return number > self.bound

    def __str__(self) -> str:
        return f"above {self.bound}"


class Arguments:
    """Type of a section whose keys are arguments of some library; a word such as `no` in it is refused."""


@dataclass(frozen=True)
class Problem:
    """A wrong value: its key, and the message for the user."""

    key: str
    message: str


def apply_schema(cfg: DictConfig, schema: type, prefix: str = "") -> list[Problem]:
    """Convert the values of a config to the types of a schema, in place.

    Args:
        cfg: the config; keys that are in only one of schema and config are ignored.
        schema: a dataclass.
        prefix: of the keys in messages, such as `data.`.

    Returns:
        All values that cannot be converted.
    """
    problems: list[Problem] = []
    for name, hint in get_type_hints(schema, include_extras=True).items():
        key = f"{prefix}{name}"
        if hint is Any or name not in cfg.keys():  # noqa: SIM118  `in` is false for a value that is missing (???)
            continue
        if OmegaConf.is_missing(cfg, name):
            problems.append(Problem(key, f"{key} is not set: pass {key}=VALUE"))
        elif hint is Arguments:
            if not isinstance(cfg[name], DictConfig):
                problems.append(
                    Problem(key, f"{key}={_spelled(cfg[name])} must be a group of keys: set them one by one")
                )
                continue
            problems.extend(_words_in(OmegaConf.to_container(cfg, resolve=False)[name], key))  # type: ignore[call-overload,index]
        elif is_dataclass(hint):
            if isinstance(cfg[name], DictConfig):
                problems.extend(apply_schema(cfg[name], hint, f"{key}."))  # type: ignore[arg-type]
            elif cfg[name] is not None:
                problems.append(Problem(key, f"{key}={cfg[name]} must be a group of keys: set them one by one"))
        else:
            value = cfg[name]
            plain = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
            try:
                converted = convert(plain, hint)
            except ValueError:
                problems.append(Problem(key, f"{key}={value} must be {describe(hint)}"))
                continue
            if type(converted) is not type(plain) or converted != plain:
                cfg[name] = converted
    return problems


def convert(value: Any, hint: Any) -> Any:
    """Return a plain value as the type `hint`.

    Raises:
        ValueError: it is not of that type, and does not spell a value of that type.
    """
    origin, parameters = get_origin(hint), get_args(hint)
    if origin is Annotated:
        converted = convert(value, parameters[0])
        if all(converted in bound for bound in parameters[1:]):
            return converted
    elif origin in (Union, types.UnionType):
        # None first: it is also text. The sort is stable.
        for alternative in sorted(parameters, key=lambda kind: kind is not types.NoneType):
            try:
                return convert(value, alternative)
            except ValueError:
                continue
    elif origin is Literal:
        if value in parameters and not isinstance(value, bool):
            return value
    elif origin is list:
        if get_origin(parameters[0]) is Literal and isinstance(value, str):  # one choice, as in format=onnx
            value = [value]
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [convert(element, parameters[0]) for element in value]
    elif origin is dict:
        if isinstance(value, str):
            value = _as_mapping(value)
        if isinstance(value, Mapping):
            return {str(key): convert(element, parameters[1]) for key, element in value.items()}
    else:
        return _SCALARS[hint](value)
    raise ValueError(value)


def _as_bool(value: Any) -> bool:
    word = str(value).lower()
    if isinstance(value, bool) or (isinstance(value, str | int) and word in (*_TRUE_WORDS, *_FALSE_WORDS, "0", "1")):
        return word in (*_TRUE_WORDS, "1")
    raise ValueError(value)


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value % 1:
        raise ValueError(value)
    return int(value)


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise ValueError(value)
    return str(value)


def _as_mapping(text: str) -> Mapping[str, float]:
    """What `{NAME: NUMBER, …}` says, each name as it is written: `{true: 2}` is about the class `true`."""
    try:
        mapping = yaml.load(re.sub(r":(?=[-+.\de]+\s*[,}])", ": ", text), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(text) from error
    if not isinstance(mapping, Mapping) or not all(isinstance(number, str) for number in mapping.values()):
        raise ValueError(text)
    return {name: float(number) for name, number in mapping.items()}


def _as_none(value: Any) -> None:
    if value is not None and str(value).lower() != "none":
        raise ValueError(value)


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: _as_bool,
    int: _as_int,
    float: _as_float,
    str: _as_text,
    types.NoneType: _as_none,
}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}


def describe(hint: Any) -> str:
    """Return the values of a type in words, such as "a whole number, 1 or more, or auto"."""
    origin, parameters = get_origin(hint), get_args(hint)
    if origin is Annotated:
        separator = " " if isinstance(parameters[1], Above) else ", "
        return separator.join([describe(parameters[0]), *map(str, parameters[1:])])
    if origin in (Union, types.UnionType):
        return ", or ".join(map(describe, parameters))
    if origin is Literal:
        return f"one of {', '.join(parameters)}" if len(parameters) > 1 else str(parameters[0])
    if origin is list:
        return f"a list of values, each {describe(parameters[0])}"
    if origin is dict:
        return f"{{NAME: VALUE}} with {describe(parameters[1])}"
    return _NAMES[hint]


def _spelled(value: Any) -> Any:
    return "null" if value is None else value


def _words_in(value: Any, key: str) -> Iterator[Problem]:
    """Yield the values below `key` that are words for a boolean, which a library would take for text."""
    if isinstance(value, Mapping):
        for name, element in value.items():
            yield from _words_in(element, f"{key}.{name}")
    elif isinstance(value, str) and value.lower() in (*_TRUE_WORDS, *_FALSE_WORDS):
        yield Problem(key, f"{key}={value} must be true or false: it would be passed on as text")
