"""Commands in processes of their own, as a user starts them, but for the ten seconds that it takes to import torch.

Each is forked from a server that has imported the libraries, and nothing of ours: multiprocessing's own forkserver. It
has its own command line, environment, folder, output and exit status, and takes signals. So have the commands that it
starts in its turn, the jobs of a sweep and further ranks: it has them forked, as spares, before it becomes a command.
What depends on how Python itself is started is started for real: `trained` in conftest, `undisturbed` and the two ranks
of which one is killed in test_resume, a wheel and torchrun. What it does not show: a crash as the interpreter
shuts down, and what its own children print after its end.
"""

import atexit
import faulthandler
import multiprocessing
import os
import pickle
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import patch

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["libraries"])


class Command:
    """A command that is under way: what the tests need of `subprocess.Popen`.

    Args:
        module: of `python -m sports_lightning.<module>`.
        arguments: its command line.
        cwd: the folder that it runs in.
        package: in place of sports_lightning; "": none.
    """

    def __init__(self, module: str, *arguments: str, cwd: Path, package: str = "sports_lightning") -> None:
        self._output = tempfile.TemporaryDirectory()
        files = [f"{self._output.name}/{name}" for name in ("stdout", "stderr")]
        for file in files:
            Path(file).touch()
        self.args = [f"{package}.{module}".strip("."), *arguments]
        self._process = _forks.Process(target=_run, args=(self.args, str(cwd), dict(os.environ), files))
        with patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parent)):  # the server, which it may start, needs it
            self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal that has ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit status."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it has printed on stdout and on stderr."""
        self.wait(timeout)
        stdout, stderr = (Path(self._output.name, name).read_text() for name in ("stdout", "stderr"))
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()


def command(
    module: str, *arguments: str, cwd: Path, check: bool = True, package: str = "sports_lightning"
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    started = Command(module, *arguments, cwd=cwd, package=package)
    stdout, stderr = started.communicate(timeout=300)
    assert not check or started.returncode == 0, stdout + stderr
    return subprocess.CompletedProcess(started.args, started.returncode or 0, stdout, stderr)


def kill_all() -> None:
    """End what tests that failed have left running: multiprocessing would wait for it."""
    for process in multiprocessing.active_children():
        process.kill()


class _Spare:
    """A process that waits until it is to become a command, as a child of the one that has made it."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(read)
            return
        os.close(self._write)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # not yet for it
        with open(read, "rb") as pipe:
            try:
                asked = pickle.load(pipe)
            except EOFError:  # nobody can ask any more
                os._exit(0)
        status: Any = 1
        try:
            _become(*asked)
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status or 0)

    def become(self, argv: list[str], cwd: str, environment: dict[str, str]) -> None:
        """Let it be this command."""
        with open(self._write, "wb") as pipe:
            pickle.dump((argv, cwd, environment), pipe)


class _Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, but a spare for `python -m sports_lightning.<module>` while there are some."""

    spares: list[_Spare]

    def __init__(self, args: Any, **options: Any) -> None:
        self._options = options
        super().__init__(args, **options)

    def _execute_child(self, args: Any, *rest: Any) -> None:  # what starts the process in CPython
        is_ours = args[:2] == [sys.executable, "-m"] and args[2].startswith("sports_lightning.")
        if not (is_ours and self.spares and self._options.keys() <= {"env", "cwd", "process_group"}):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        spare = self.spares.pop()
        self.pid, self._child_created = spare.pid, True
        if "process_group" in self._options:
            os.setpgid(self.pid, self._options["process_group"])
        where, environment = self._options.get("cwd"), self._options.get("env")
        spare.become(args[2:], str(where or os.getcwd()), dict(environment or os.environ))


def _run(argv: list[str], cwd: str, environment: dict[str, str], files: list[str]) -> None:
    """What the forked process does: a group and output of its own, as a terminal gives it, and then the command."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the system's own, not the one that made this process
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    _become(argv, cwd, environment)


def _become(argv: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Be a command that has just been started."""
    _Popen.spares = [_Spare() for _ in range(8 if "-m" in argv else 2)]  # whatever it starts beyond, it starts for real
    subprocess.Popen = _Popen  # type: ignore[misc]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job would ignore
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    here = Path(__file__).parents[1]
    sys.path[:] = [place for place in sys.path if Path(place) not in (here / "tests", here / "benchmarks")]  # pytest's
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [*([] if environment.get("PYTHONSAFEPATH") else [cwd]), *filter(None, path)]
    faulthandler.enable()  # as PYTHONFAULTHANDLER has Python do it
    random.seed()  # not the server's
    sys.modules["numpy"].random.seed()
    module, *sys.argv[1:] = argv
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
