"""A process that has imported the package's libraries and forks processes of commands from itself.

    python fork_server.py SOCKET

A new interpreter spends several seconds on these imports. The processes that such a command starts are forked from here
too: the ranks of a training on several devices, and the jobs of a sweep.
"""

import atexit
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from socketserver import ForkingMixIn, StreamRequestHandler, UnixStreamServer
from types import SimpleNamespace
from typing import Any, NoReturn

# Modules that start Python processes, by the name `subprocess` in them.
_STARTERS = (
    "pytorch_lightning.strategies.launchers.subprocess_script",
    "sports_lightning.reproduce.reproduction",
    "sports_lightning.sweeps.jobs",
)


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        command: module and command line, as for `python -m`.
        env: all environment variables.
        cwd: the folder to run in.
        output: folder of the files `stdout` and `stderr`.
        server: the server's socket.
    """

    command: list[str]
    env: dict[str, str]
    cwd: str
    output: str
    server: str


class ForkedProcess:
    """A process of the fork server; the part of `subprocess.Popen` that commands and tests use."""

    def __init__(self, job: Job) -> None:
        self.args = job.command
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(job.server)
        self._socket.sendall(json.dumps(asdict(job)).encode() + b"\n")
        self.pid = int(self._socket.recv(16))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; negative: a signal."""
        if self.returncode is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            if status := self._socket.recv(16):  # empty: another thread has just read it
                self.returncode = int(status)
        return self.returncode  # type: ignore[return-value]

    def poll(self) -> int | None:
        """The exit status; None while it is running."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Handler(StreamRequestHandler):
    """Starts a process, sends its number, waits for its end and sends its exit status; itself in a forked process."""

    def handle(self) -> None:
        job = Job(**json.loads(self.rfile.readline()))
        pid = os.fork()
        if pid == 0:
            self.connection.close()
            _become(job)
        self.wfile.write(b"%-16d" % pid)
        _, status = os.waitpid(pid, 0)
        with suppress(BrokenPipeError):  # the process that started it has ended
            self.wfile.write(b"%-16d" % os.waitstatus_to_exitcode(status))


class _Server(ForkingMixIn, UnixStreamServer):
    max_children = 100
    parent = os.getppid()

    def service_actions(self) -> None:
        super().service_actions()
        if os.getppid() != self.parent:
            sys.exit()


def _become(job: Job) -> NoReturn:
    """Run a command in this forked process, as a new interpreter would."""

    def start(arguments: Sequence[str], env: dict[str, str], cwd: str | None = None, **_: Any) -> ForkedProcess:
        return ForkedProcess(Job(list(arguments[2:]), env, cwd or os.getcwd(), job.output, job.server))

    def run(arguments: Sequence[str], cwd: Path | None = None) -> ForkedProcess:
        process = start(arguments, dict(os.environ), str(cwd or Path.cwd()))
        process.wait()
        return process

    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for its background jobs
        os.environ.clear()
        os.environ.update(job.env)
        os.chdir(job.cwd)
        sys.path[:1] = [job.cwd, *filter(None, job.env.get("PYTHONPATH", "").split(os.pathsep))]
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{job.output}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        for module in _STARTERS:
            vars(importlib.import_module(module))["subprocess"] = SimpleNamespace(Popen=start, run=run)
        sys.executable = job.env.get("FORKING_PYTHON", sys.executable)
        importlib.reload(huggingface_hub.constants)  # it has read the environment at its import
        name, *sys.argv[1:] = job.command
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # these two are left out by os._exit
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    logging.basicConfig()  # as in a command: Lightning adds a handler of its own where there is none at its import

    import captum.attr  # noqa: F401
    import huggingface_hub.constants

    import sports_lightning.train.finish
    import sports_lightning.train.fit  # noqa: F401

    logging.getLogger().handlers.clear()
    with _Server(sys.argv[1], _Handler) as server:
        print(flush=True)  # it is ready
        server.serve_forever()
