"""Configs as trees of dicts and lists."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def map_strings(function: Callable[[str], str], tree: Any) -> Any:
    """A copy of `tree`, dicts and lists, in which `function` has replaced every string that is a value."""
    if isinstance(tree, dict):
        return {key: map_strings(function, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_strings(function, value) for value in tree]
    return function(tree) if isinstance(tree, str) else tree


def elements(config: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (key, value) of all elements in nested dicts and lists; the key of a list element is its index."""
    if isinstance(config, Mapping):
        items = list(config.items())
    elif isinstance(config, Sequence) and not isinstance(config, str):
        items = list(enumerate(config))
    else:
        return
    for key, value in items:
        yield key, value
        yield from elements(value)
