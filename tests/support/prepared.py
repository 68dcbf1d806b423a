"""Commands forked from a process that has imported everything already: half of a short study's seconds are imports.

Each command is still a process of its own, in a session of its own, with its own arguments, environment and output, and
is killed and waited for like any other; it starts its workers anew. Only its first second, the imports, is shared. What
a test of the start itself looks at must be started plainly: the text of /proc/PID/environ and cmdline is the server's,
and forks order sets of texts alike, where plain processes do not.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What a study imports on its way; one that is missing here is imported by each command again.
MODULES = (
    "autotune.night.session", "autotune.cli.status", "autotune.cli.notify", "autotune.progress.terminal",
    "autotune.replay.table",
    "optuna.storages._rdb.storage", "optuna.storages._rdb.models", "optuna.samplers", "alembic.command",
    "sqlalchemy.orm", "sqlalchemy.dialects.sqlite", "multiprocessing.popen_spawn_posix", "scipy.special", "psutil",
    "filelock", "rich.progress",
)  # fmt: skip


class Command:
    """A forked command, handled like a `subprocess.Popen`.

    Args:
        status: Reading end of a pipe that says its process number and, when it has ended, its exit code.
    """

    def __init__(self, status: int) -> None:
        self.returncode: int | None = None
        self._status = os.fdopen(status, "r")
        line = self._status.readline()
        if not line:
            raise RuntimeError("the process that commands are forked from has ended; its stderr says why")
        self.pid = int(line)

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._take()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Waits for its end and returns the exit code."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked command", timeout)
            self._take()
        assert self.returncode is not None
        return self.returncode

    def _take(self) -> None:
        self.returncode = int(self._status.readline())
        self._status.close()

    def send_signal(self, name: int) -> None:
        """Sends it a signal, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, name)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that commands are forked from.

    Args:
        script: A script that calls `serve` when its first argument is `--serve`, and then does what its arguments say.
        environment: Environment that it is started in.
    """

    def __init__(self, script: Path, environment: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--serve", str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def start(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: int) -> Command:
        """Starts a command.

        Args:
            arguments: After the script's name.
            folder: Working directory.
            environment: The whole of it.
            output: Open file that takes everything it prints.
        """
        reading, writing = os.pipe()
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        socket.send_fds(self._requests, [f"{json.dumps(request)}\n".encode()], [output, writing])
        os.close(writing)
        return Command(reading)

    def close(self) -> None:
        """Ends the server; commands that still run go on."""
        self._requests.close()
        self._process.wait()


def serve() -> None:
    """Imports what commands need, and forks at each request; returns in the forks alone."""
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[2])) as requests:
        while True:
            message, files, *_ = socket.recv_fds(requests, 1 << 20, 2)
            while message and not message.endswith(b"\n"):
                message += requests.recv(1 << 20)
            _reap()
            if not message:
                sys.exit()
            if not os.fork():
                break
            for file in files:
                os.close(file)
    output, status = files
    if pid := os.fork():
        # In between, since only a parent is told how a process ended.
        os.close(output)
        os.write(status, f"{pid}\n".encode())
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(status, f"{ended}\n".encode())
        os._exit(0)
    os.close(status)
    _become(json.loads(message), output)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(request: dict[str, Any], output: int) -> None:
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.argv[1:] = request["arguments"]
