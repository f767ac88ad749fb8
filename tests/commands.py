"""Commands in processes of their own, as a user starts them, but for the ten seconds that it takes to import torch.

Each is forked from a server that has imported the libraries, and nothing of ours: multiprocessing's own forkserver. It
has its own command line, environment, folder, output and exit status, and takes signals. What depends on how Python
itself is started is started for real: `trained` in conftest, `undisturbed` in test_resume, a wheel, torchrun and srun.
What it does not show: a crash as the interpreter shuts down, and what its own children print after its end.
"""

import atexit
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["libraries"])


class Command:
    """A command that is under way: what the tests need of `subprocess.Popen`.

    Args:
        module: of `python -m sports_lightning.<module>`.
        arguments: its command line.
        cwd: the folder that it runs in.
    """

    def __init__(self, module: str, *arguments: str, cwd: Path) -> None:
        self._output = tempfile.TemporaryDirectory()
        files = [f"{self._output.name}/{name}" for name in ("stdout", "stderr")]
        for file in files:
            Path(file).touch()
        environment = dict(os.environ)
        environment.pop("WANDB_SERVICE", None)  # of another test here: it would write after the command's end
        self.args = [f"sports_lightning.{module}".removesuffix("."), *arguments]
        self._process = _forks.Process(target=_run, args=(self.args, str(cwd), environment, files))
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


def command(module: str, *arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    started = Command(module, *arguments, cwd=cwd)
    stdout, stderr = started.communicate(timeout=300)
    assert not check or started.returncode == 0, stdout + stderr
    return subprocess.CompletedProcess(started.args, started.returncode or 0, stdout, stderr)


def kill_all() -> None:
    """End what tests that failed have left running: multiprocessing would wait for it."""
    for process in multiprocessing.active_children():
        process.kill()


def _run(argv: list[str], cwd: str, environment: dict[str, str], files: list[str]) -> None:
    """What the forked process does: become the command."""
    os.setsid()  # a group of its own, as a terminal gives it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job would ignore
    multiprocessing.set_start_method(None, force=True)  # the system's own, not the one that made this process
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    here = Path(__file__).parents[1]
    sys.path[:] = [place for place in sys.path if Path(place) not in (here / "tests", here / "benchmarks")]  # pytest's
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [*([] if environment.get("PYTHONSAFEPATH") else [cwd]), *filter(None, path)]
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    random.seed()  # not the server's
    sys.modules["numpy"].random.seed()
    module, *sys.argv[1:] = argv
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
