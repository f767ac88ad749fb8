"""Digests of source code, for the keys of caches: a value that code has computed is stale once the code changes."""

import ast
import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = __name__.partition(".")[0]
_FOLDER = Path(__file__).parents[1]
# Parts of this package that compute no pixel, feature or pair: messages, locks, signals, how files are written.
_NO_VALUES = {"config", "errors", "runs", "storage"}
_VERSIONED = {"timm", "torch", "torchvision"}  # libraries whose versions are part of every key


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
            waiting += _imported(file)
    content = hashlib.blake2b(digest_size=16)
    for name, file in sorted(found.items()):
        content.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return content.hexdigest()


def foreign_code_digests(modules: Iterable[str]) -> dict[str, str]:
    """{module: digest of its source file} of a user's own modules among those of this package and of libraries.

    Args:
        modules: names of modules, such as those that define the layers of a network.
    """
    skipped = {_PACKAGE, *sys.stdlib_module_names, *_VERSIONED}
    digests = {}
    for name in sorted(set(modules)):
        if name.partition(".")[0] not in skipped and (file := _file_of(name)):
            digests[name] = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    return digests


def _imported(file: Path) -> set[str]:
    """The modules of this package that a source file imports anywhere, with the packages that they are in."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = [name.split(".") for name in names if name.startswith(f"{_PACKAGE}.")]
    own = [parts for parts in own if parts[1] not in _NO_VALUES]
    return {".".join(parts[:length]) for parts in own for length in range(2, len(parts) + 1)}


def _source_file(module: str) -> Path | None:
    path = _FOLDER.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _file_of(module: str) -> Path | None:
    if module in sys.modules:
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            return None
        origin = spec.origin if spec else None
    return Path(origin) if origin and Path(origin).is_file() else None
