"""One resident training process per device slot: warm between trials, replaced after any fault.

The parent holds the Optuna study and no CUDA; the child holds the trainer. They speak over one pipe:
a Job goes down; Preparing, Progress, Done and Failed come up; each Progress is answered: go on, stop, or end at so many
tokens.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from autotune.core.child import end_with_parent
from autotune.core.disk_faults import disk_fault_of_training, explain_os_error
from autotune.core.errors import exit_code_of
from autotune.core.records import EvalPoint
from autotune.machine.gpu_monitor import GpuMonitor

_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a worker ignores: they reach the whole process group, and the parent alone decides what they mean."""
_STARTING = threading.Lock()
"""Held while a worker starts: studies in two threads must not take each other's main module for the program's."""


@dataclass(frozen=True)
class Slot:
    """A device that runs one trial at a time.

    Args:
        name: "cuda:0" or "cpu"; shown to people.
        environment: Variables that make the child see this device alone.
        gpu: Physical index of its GPU; -1 on the CPU.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    gpu: int = -1

    def energy_j(self) -> float | None:
        """Return what its GPU's counter of energy says, in joules; None where there is none."""
        if self.gpu < 0:
            return None
        with GpuMonitor(self.gpu) as monitor:
            sample = monitor.sample()
        return None if sample is None else sample.energy_j


@dataclass(frozen=True)
class Job:
    """One training to run.

    Args:
        config: The resolved configuration, nested.
        budget_tokens: Tokens to train on.
        log: File that takes everything the trainer prints.
    """

    config: Mapping[str, Any]
    budget_tokens: int
    log: Path


@dataclass(frozen=True)
class Preparing:
    """What is done before the first evaluation, in a sentence; there is no answer to it."""

    words: str


@dataclass(frozen=True)
class Progress:
    """An evaluation that waits for an answer."""

    point: EvalPoint


@dataclass(frozen=True)
class Done:
    """The trainer returned, having finished or been told to stop."""

    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The trainer raised.

    Args:
        out_of_memory: Whether the device or the machine had no memory left.
        message: Class and message of the error, one line.
        disk_fault: What a person is told of a disk that failed under it, which no setting is to blame for; or "".
        exit_code: The error's own: 2 for what the study file says, 3 for the machine or the network; else 1.
        diverged: Whether it says that the training has diverged.
    """

    out_of_memory: bool
    message: str
    disk_fault: str = ""
    exit_code: int = 1
    diverged: bool = False


Message = Preparing | Progress | Done | Failed


class Worker:
    """The parent's side of one resident training process.

    Args:
        slot: The device it trains on.
        trainer: The trainer's name, "package.module:function".
    """

    def __init__(self, slot: Slot, trainer: str) -> None:
        self.slot = slot
        self.has_trained = False
        """Whether a training of this process has ended: the first one takes longer, for all that is made once."""

        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, trainer, dict(slot.environment)), name=f"autotune {slot.name}"
        )

        with _signals_held(), _without_main():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The child's process number."""
        assert self._process.pid is not None
        return self._process.pid

    def submit(self, job: Job) -> None:
        """Start a job; the worker must be idle. A dead child shows as end of file at `receive`."""
        with contextlib.suppress(OSError):
            self.connection.send(job)

    def answer(self, answer: bool | int) -> None:
        """Answer a Progress as a trainer's `report` does: go on, stop, or the tokens at which to end."""
        with contextlib.suppress(OSError):
            self.connection.send(answer)

    def receive(self) -> Message | None:
        """Return the next message, waiting for it; None when the process has died."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def cause_of_death(self) -> str:
        """Return in words how the process ended, after waiting for its end."""
        self._process.join(timeout=5)
        code = self._process.exitcode
        if code is None:
            return "its worker closed the connection"
        if code >= 0:
            return f"its worker ended with exit code {code}"

        name = signal.Signals(-code).name
        hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
        return f"its worker was killed by {name}{hint}"

    def kill(self) -> None:
        """End the process at once, stopped or not, and free what it held."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def close(self) -> None:
        """Let an idle process end by itself, and kill it if it does not within seconds."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

        self._process.join(timeout=5)
        self.kill()


def ready(workers: list[Worker], timeout_s: float) -> list[Worker]:
    """Return those workers that have something to say or have died, waiting for the first.

    Args:
        workers: Workers to listen to.
        timeout_s: Longest wait in seconds.
    """
    by_connection = {worker.connection: worker for worker in workers}
    speaking = wait(list(by_connection), timeout_s)
    return [by_connection[connection] for connection in speaking]  # type: ignore[index]


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back while a child starts; it inherits this, and then ignores them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the program's main module while a child starts, which would run it again.

    A script that calls `autotune.run` without an `if __name__ == "__main__"` would start its study in each worker.
    Workers need nothing of it: they import their trainer by name.
    """
    with _STARTING:
        before = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = before


# --- the child ---------------------------------------------------------------------------------------------


def _serve(connection: Connection, trainer_name: str, environment: Mapping[str, str]) -> None:
    """Run jobs in this process until the parent sends None or is gone."""
    # Before torch is imported, or the device choice would come too late.
    os.environ.update(environment)

    # What a trainer prints goes into a file, whatever the terminal's encoding.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")

    for name in _PARENTS_SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENTS_SIGNALS)
    _die_with_parent()

    while (job := _next_job(connection)) is not None:
        try:
            with _output_to(job.log):
                message = _run(job, trainer_name, connection)
        except OSError as error:  # of the log itself
            message = _failed(error, str(explain_os_error(error)))

        try:
            connection.send(message)
        except OSError:
            return


def _next_job(connection: Connection) -> Job | None:
    try:
        job: Job | None = connection.recv()
    except (EOFError, OSError):
        return None
    return job


def _run(job: Job, trainer_name: str, connection: Connection) -> Message:
    from autotune.study.trainer import load_trainer

    def report(point: Mapping[str, float]) -> bool | int:
        connection.send(Progress(EvalPoint.from_report(point)))
        answer: bool | int = connection.recv()
        return answer

    # An attribute, so that a trainer that has nothing to say before its first evaluation need not know of it.
    report.preparing = lambda words: connection.send(Preparing(str(words)))  # type: ignore[attr-defined]

    try:
        facts = load_trainer(trainer_name).run(job.config, job.budget_tokens, report)
        # What JSON does not know becomes text here: a finished training must not be lost over it later.
        return Done(json.loads(json.dumps(facts, default=str)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a trainer raises ends one trial, not the study
        traceback.print_exc()
        return _failed(error, disk_fault_of_training(error))


def _failed(error: BaseException, disk_fault: str) -> Failed:
    # By name, since the engine does not import torch.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    in_one_line = " ".join(f"{type(error).__name__}: {error}".split())
    diverged = isinstance(error, FloatingPointError)
    return Failed(out_of_memory, in_one_line, disk_fault, exit_code_of(error, 1), diverged)


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send everything this process prints, C libraries included, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()

    with log.open("ab") as file:
        saved = (os.dup(1), os.dup(2))
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    try:
        yield
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            for target, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, target)
                os.close(copy)


def _die_with_parent() -> None:
    """End this process when its parent dies, even in the middle of a long optimizer step."""
    end_with_parent()

    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
