"""Importing torch and its kin faster. No torch in here."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Within, nothing looks for garbage, and whatever is there at the end is never looked through again.

    Imports make half a million objects that stay. Looking for garbage among them takes a fifth of the time of importing
    torch, pytorch_lightning and timm, and later a quarter of a second each time.
    """
    gc.disable()
    # At the end Python takes apart what it finds, and libraries complain of what is left (nanobind, for triton).
    atexit.register(gc.unfreeze)
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
