"""Digests of source code, for the keys of caches: a value that code has computed is stale once the code changes."""

import ast
import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = __name__.partition(".")[0]
_FOLDER = Path(__file__).parents[1]
# Parts of this package that compute no pixel, feature or pair: messages, locks, signals, how files are written.
_NO_VALUES = {"config", "errors", "runs", "storage"}
# Code that is part of every key, or of Python.
_IN_EVERY_KEY = {_PACKAGE, "timm", "torch", "torchvision", *sys.stdlib_module_names}
_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}


@cache
def code_digest(module: str) -> str:
    """Digest of the source of a module of this package and of all modules of it that it imports, also indirectly.

    Modules that compute no values (`_NO_VALUES`) are left out, so that other messages do not make caches stale.

    Args:
        module: its full name.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and (file := _source_file(name)):
            found[name] = file
            waiting += _own(_imports(file, name))
    content = hashlib.blake2b(digest_size=16)
    for name, file in sorted(found.items()):
        content.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return content.hexdigest()


def foreign_code(modules: Iterable[str]) -> dict[str, str]:
    """The code outside this package that a value depends on: {library: version}, {module of a user: digest}.

    The modules that a user's module imports are among them, also indirectly. Nothing is imported to find them.

    Args:
        modules: full names of modules, such as those that define the layers of a network.
    """
    found: dict[str, str] = {}
    known = set(_IN_EVERY_KEY)
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        library = name.partition(".")[0]
        if name in found or library in known:
            continue
        if not (file := _file_of(name)):
            if "." in name:  # a class in a module, of which a method is named
                waiting.append(name.rpartition(".")[0])
            continue
        if _LIBRARY_FOLDERS & set(file.parts):
            known.add(library)
            found[library] = _version(library)
            continue
        found[name] = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
        if file.suffix == ".py":
            waiting += _imports(file, name)
    return dict(sorted(found.items()))


def _version(library: str) -> str:
    return ", ".join(sorted(f"{name} {version(name)}" for name in packages_distributions().get(library, [])))


def _imports(file: Path, module: str) -> set[str]:
    """The full names that a source file imports anywhere: modules, and perhaps names within them."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # nothing can import it, either
        return set()
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            source = [*parents, *(node.module or "").split(".")] if node.module else parents
            names |= {".".join(source), *(".".join([*source, alias.name]) for alias in node.names)}
    return names - {""}


def _own(names: set[str]) -> set[str]:
    """The modules of this package among imported names, with the packages that they are in."""
    own = [name.split(".") for name in names if name.startswith(f"{_PACKAGE}.")]
    own = [parts for parts in own if parts[1] not in _NO_VALUES]
    return {".".join(parts[:length]) for parts in own for length in range(2, len(parts) + 1)}


def _source_file(module: str) -> Path | None:
    path = _FOLDER.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _file_of(module: str) -> Path | None:
    """The file of a module, which is not imported; None: there is none, or none of this name."""
    if module in sys.modules:
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        name, *parts = module.split(".")
        spec = find_spec(name)
        for part in parts:
            name = f"{name}.{part}"
            spec = PathFinder.find_spec(name, spec.submodule_search_locations or []) if spec else None
        origin = spec.origin if spec else None
    return Path(origin) if origin and Path(origin).is_file() else None
