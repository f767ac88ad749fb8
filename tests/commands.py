"""Commands of the package, run in this process or in a separate one.

A separate process needs several seconds for its imports. Only tests that require one start it (signals from outside,
kills, several devices); they are marked `slow`.
"""

import gc
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
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

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class Result:
    """The outcome of a command: its exit status and its output."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The last line on stdout, which is the run folder."""
        return self.stdout.strip().splitlines()[-1]


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
        return call_as_command(lambda: runpy.run_module(_module(name), run_name="__main__", alter_sys=True), cwd)


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
    """Run the jobs of a sweep in this process, one after the other; for `sweep.parallel=1`."""

    def start(arguments: Sequence[str], env: dict[str, str], **_: Any) -> _FinishedJob:
        with patch.dict(os.environ, env, clear=True):
            result = try_command(arguments[2].removeprefix("sports_lightning."), *arguments[3:])
        print(result.stdout, end="")
        print(result.stderr, end="", file=sys.stderr)
        return _FinishedJob(result.status)

    with patch("sports_lightning.sweeps.jobs.subprocess", SimpleNamespace(Popen=start)):
        yield


@dataclass(frozen=True)
class _FinishedJob:
    """The part of `subprocess.Popen` that a sweep uses."""

    status: int

    def poll(self) -> int:
        return self.status


class Process(subprocess.Popen[str]):
    """A command in its own process and process group, as a shell starts it.

    Args:
        name: of `python -m sports_lightning.<name>`.
        arguments: its command line.
        cwd: the folder to run in; by default the test's own temporary folder.
        environment: variables in addition to those of this process.
    """

    def __init__(self, name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> None:
        super().__init__(
            [sys.executable, "-m", _module(name), *arguments],
            cwd=cwd,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def result(self, timeout: float = 200) -> Result:
        """Wait for its end. It and its child processes are killed if it takes longer than `timeout` seconds."""
        try:
            stdout, stderr = self.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGABRT)  # PYTHONFAULTHANDLER prints the stack
            raise AssertionError(self.communicate()) from None
        return Result(self.returncode, stdout, stderr)

    def wait_for(self, path: Path) -> None:
        """Wait until the command has written a file."""
        self.wait_until(path.exists)

    def wait_until(self, is_met: Callable[[], bool], timeout: float = 200) -> None:
        """Wait until a condition is met; the command must not end before."""
        deadline = time.monotonic() + timeout
        while not is_met():
            assert self.poll() is None, self.communicate()
            if time.monotonic() > deadline:
                self.result(timeout=0.1)
            time.sleep(0.02)


def run_process(name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Result:
    """Run a command in a separate process; it has to succeed."""
    result = Process(name, *arguments, cwd=cwd, **environment).result()
    assert result.status == 0, result.stdout + result.stderr
    return result


def _module(name: str) -> str:
    return f"sports_lightning.{name}".rstrip(".")


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
