"""`python [-u] -m MODULE ARGUMENTS` in a process of a fork server, for programs that start interpreters themselves.

    python fork_client.py SOCKET -m MODULE ARGUMENTS

Its signals are passed on, and what the process has printed is printed at its end.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from fork_server import ForkedProcess, Job

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

if __name__ == "__main__":
    server, *options = sys.argv[1:]
    if "submitit.local._local" in options:  # the number of its process is that of the job
        os.execv(sys.executable, [sys.executable, *options])
    with tempfile.TemporaryDirectory() as output:
        command = options[options.index("-m") + 1 :]
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        process = ForkedProcess(Job(command, dict(os.environ), os.getcwd(), output, server))
        for number in SIGNALS:
            signal.signal(number, lambda received, _: process.send_signal(received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        status = process.wait()
        for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
            stream.write((Path(output) / name).read_text(encoding="utf-8"))
    sys.exit(status if status >= 0 else 128 - status)
