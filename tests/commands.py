"""Commands of the package, run in this process. For those in a process of their own see `processes.py`."""

import gc
import io
import logging
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from processes import Result, module_name

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def run_command(name: str, *arguments: str, cwd: Path | None = None) -> Result:
    """Run `python -m sports_lightning.<name> <arguments>` in this process; it has to succeed.

    Args:
        name: name of the command; "" for the package itself.
        arguments: the command line.
        cwd: the folder to run in; by default the test's own temporary folder.
    """
    result = try_command(name, *arguments, cwd=cwd)
    assert result.status == 0, result.stdout + result.stderr
    return result


def try_command(name: str, *arguments: str, cwd: Path | None = None) -> Result:
    """Run a command in this process, whatever its exit status. An exception that it does not handle is raised."""
    with patch.object(sys, "argv", [f"{name}.py", *arguments]):
        return call_as_command(lambda: runpy.run_module(module_name(name), run_name="__main__", alter_sys=True), cwd)


def call_as_command(function: Callable[[], Any], cwd: Path | None = None) -> Result:
    """Call a function that does the work of a command's process, in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    status = 0
    with _restored_process(), chdir(cwd or Path.cwd()), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            function()
        except SystemExit as end:
            status = int(end.code or 0)
    return Result(status, stdout.getvalue(), stderr.getvalue())


@contextmanager
def jobs_in_this_process() -> Iterator[None]:
    """Run the jobs of a sweep and of `reproduce` in this process, one after the other; for `sweep.parallel=1`."""

    def start(
        arguments: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None, **_: Any
    ) -> _FinishedJob:
        with patch.dict(os.environ, env or dict(os.environ), clear=True):
            result = try_command(arguments[2].removeprefix("sports_lightning."), *arguments[3:], cwd=cwd)
        print(result.stdout, end="")
        print(result.stderr, end="", file=sys.stderr)
        return _FinishedJob(result.status)

    with (
        patch("sports_lightning.sweeps.jobs.subprocess", SimpleNamespace(Popen=start)),
        patch("sports_lightning.reproduce.reproduction.subprocess", SimpleNamespace(run=start)),
    ):
        yield


@dataclass(frozen=True)
class _FinishedJob:
    """The part of `subprocess.Popen` and `CompletedProcess` that the package uses."""

    returncode: int

    def poll(self) -> int:
        return self.returncode


@contextmanager
def _restored_process() -> Iterator[None]:
    """Undo the changes that a command makes to its process."""
    # Not imported above: pytest-xdist's first process, which runs no test, reads this file too.
    import matplotlib.pyplot as plt
    import torch
    from pytorch_lightning.utilities.seed import isolate_rng

    root, precision, is_deterministic = (
        logging.getLogger(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )
    handlers, level = root.handlers[:], root.level
    signal_handlers = {number: signal.getsignal(number) for number in SIGNALS}
    search_path = sys.path[:]
    hydra = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(isolate_rng())
        stack.enter_context(patch("gc.freeze"))  # cycles of finished runs have to be collected
        stack.enter_context(patch.object(logging, "raiseExceptions", logging.raiseExceptions))
        # Hydra closes all handlers; that of absl, which OpenVINO imports, would close pytest's stderr.
        stack.enter_context(patch.object(logging, "_handlerList", []))
        os.environ.setdefault("HYDRA_FULL_ERROR", "0")
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.disable(logging.NOTSET)
            for number, handler in signal_handlers.items():
                signal.signal(number, handler)
            sys.path[:] = search_path
            torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(is_deterministic)
            plt.close("all")
            if "wandb" in sys.modules:
                sys.modules["wandb"].teardown()
            gc.enable()
