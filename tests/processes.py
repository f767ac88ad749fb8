"""Commands in processes of their own, forked from a process that has the imports of a command behind it."""

import atexit
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fork_server import ForkedProcess, Job


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


class Process:
    """A command in its own process and process group, as a shell starts it.

    Args:
        name: of `python -m sports_lightning.<name>`.
        arguments: its command line.
        cwd: the folder to run in; by default the test's own temporary folder.
        environment: variables in addition to those of this process.
    """

    def __init__(self, name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> None:
        self._output = Path(tempfile.mkdtemp(prefix="output-"))
        command, env = [module_name(name), *arguments], {**os.environ, **environment}
        job = Job(command, env, str(cwd or Path.cwd()), str(self._output), _fork_server())
        self._process = ForkedProcess(job)
        self.pid = self._process.pid
        self.poll, self.kill, self.wait = self._process.poll, self._process.kill, self._process.wait
        self.terminate = self._process.terminate

    def result(self, timeout: float = 200) -> Result:
        """Wait for its end. It and its child processes are killed if it takes longer than `timeout` seconds."""
        try:
            status = self.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGABRT)  # PYTHONFAULTHANDLER prints the stack
            self.wait(10)
            raise AssertionError(self._printed()) from None
        stdout, stderr = self._printed()
        shutil.rmtree(self._output)
        return Result(status, stdout, stderr)

    def wait_for(self, path: Path) -> None:
        """Wait until the command has written a file."""
        self.wait_until(path.exists)

    def wait_until(self, is_met: Callable[[], bool], timeout: float = 200) -> None:
        """Wait until a condition is met; the command must not end before."""
        deadline = time.monotonic() + timeout
        while not is_met():
            assert self.poll() is None, self._printed()
            if time.monotonic() > deadline:
                self.result(timeout=0.1)
            time.sleep(0.02)

    def _printed(self) -> tuple[str, str]:
        stdout, stderr = ((self._output / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return stdout, stderr


def run_process(name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Result:
    """Run a command in a separate process; it has to succeed."""
    result = Process(name, *arguments, cwd=cwd, **environment).result()
    assert result.status == 0, result.stdout + result.stderr
    return result


def fresh_process(name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Result:
    """Run a command in a new interpreter, as a shell does, whatever its exit status."""
    process = subprocess.run(
        [sys.executable, "-m", module_name(name), *arguments],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    return Result(process.returncode, process.stdout, process.stderr)


@cache
def forking_python() -> str:
    """A program that runs `-m MODULE ARGUMENTS` as `python` does, in a process of the fork server.

    In place of a program's own `sys.executable`: `FORKING_PYTHON=forking_python()` in its environment.
    """
    program = Path(_fork_server()).with_name("python")
    client = Path(__file__).with_name("fork_client.py")
    command = shlex.join([sys.executable, str(client), _fork_server()])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    return str(program)


def torchrun() -> list[str]:
    """The command line of torchrun for two processes on this machine, up to the name of their module."""
    options = ["--standalone", "--nproc-per-node=2", "--no-python"]
    return [forking_python(), "-m", "torch.distributed.run", *options, forking_python(), "-m"]


def module_name(command: str) -> str:
    """The module of a command; "" is the package itself."""
    return f"sports_lightning.{command}".rstrip(".")


@cache
def _fork_server() -> str:
    """Start this process's fork server and return its socket."""
    folder = tempfile.mkdtemp(prefix="fork-server-")
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), f"{folder}/socket"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    assert server.stdout
    server.stdout.readline()
    return f"{folder}/socket"


@contextmanager
def locked_by_another_process(run: Path) -> Iterator[None]:
    """Let another process hold the lock of a run folder."""
    script = "from pathlib import Path; from sports_lightning.runs.resume import lock_run_folder"
    script += f"; lock_run_folder(Path({str(run)!r})); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        yield
        process.communicate("\n")
