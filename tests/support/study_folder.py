"""A folder with a study of the fake trainer in it, and what tests do to such a study: start, kill, look."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import prepared
import psutil
import tomli_w
from optuna.trial import FrozenTrial
from told import optuna_trials

from autotune.machine import host
from autotune.machine.measurement import machine_name
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord, read_study

HERE = Path(__file__).parent
# Far beyond what anything here takes on a slow and busy machine: it only ends a test that hangs.
PATIENCE_S = 120.0
# Marks every process of a study folder, workers of workers included.
MARK = "AUTOTUNE_TEST_FOLDER"
# Names the card that a command pretends to run on; see `drive.py`.
CARD = "AUTOTUNE_TEST_CARD"

STUDY: dict[str, Any] = {
    "name": "fake",
    "trainer": "fake_trainer:train",
    "budget": {"tokens": 100_000, "trials": 8},
    "base": {"lr": 0.001},
    "space": {"lr": {"low": 0.0001, "high": 1.0, "log": True}},
    "sampler": {"name": "tpe"},  # the default loads torch, which takes seconds in each process
    "pruner": {"name": "median", "n_startup_trials": 2, "warmup_frac": 0.3, "audit_frac": 0},
    "finals": {"prove_seeds": 2, "max_seeds": 2},
    "limits": {"min_free_bytes": 0},
}


class Started(NamedTuple):
    """A training that the fake trainer began."""

    pid: int
    seed: int
    lr: float
    tokens: int


@dataclass
class Run:
    """An `autotune` command in a process of its own.

    Args:
        process: The process, leader of a session of its own; see `StudyFolder.start` for how it is made.
        output: File that takes everything it prints.
    """

    process: subprocess.Popen[bytes] | prepared.Command
    output: Path

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def signal(self, name: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(name)

    def end(self) -> int:
        """Waits for its end and returns the exit code, negative for a signal."""
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Kills it as `kill -9` does."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def says(self, text: str) -> bool:
        """Waits until it prints a text; False if it ends without."""
        wait_for(lambda: text in self.text or self.process.poll() is not None)
        return text in self.text


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until something is the case, looking again and again for at most half of the time."""
    end = time.monotonic() + PATIENCE_S
    while True:
        looked = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < end, "waited in vain"
        time.sleep(max(0.01, now - looked))


POD = ("unshare", "--pid", "--fork", "--kill-child")
"""Starts a command that has process number 1, as in a container; it dies with its starter."""


@functools.cache
def has_pods() -> bool:
    """Whether this machine lets anybody number processes anew."""
    return subprocess.run([*POD, "true"], capture_output=True).returncode == 0


# Where the trainer logs, if the study is to be copied: relative to the folder that commands run in.
COPIED_LOG = {"log_dir": "log"}


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent / "fakes"), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


@functools.cache
def _server() -> prepared.Server:
    return prepared.Server(HERE / "drive.py", _environment())


def close_server() -> None:
    """Ends the process that commands are forked from, if there is one."""
    if _server.cache_info().currsize:
        _server().close()
        _server.cache_clear()


class StudyFolder:
    """An empty folder, later with a study file, runs and the trainer's log in it.

    Args:
        root: The folder.
        hardware: A hardware profile as JSON, so that none is taken.
        url: The shared database, where there is one.
    """

    def __init__(self, root: Path, hardware: Mapping[str, Any]) -> None:
        self.root = root
        self.file = root / "fake.toml"
        self.log = root / "log"
        self.log.mkdir(parents=True, exist_ok=True)
        self._hardware = hardware
        self._runs = 0
        self._forked: list[prepared.Command] = []
        self._cards: dict[str, str] = {}
        self.url = ""

    def pretend(self, process: str, card: str, memory_bytes: int = 2**34, out: str = "") -> None:
        """Lets the processes of a name run on a card of another name, which is measured to be like this machine.

        Args:
            process: The name, as `start` takes it; the folder of run directories by default.
            card: Name of the card.
            memory_bytes: What it has.
            out: Folder of the run directories, if it is not called like the process.
        """
        self._cards[process] = card
        with mock.patch.object(host, "cpu_name", return_value=card):
            path = self.directory(out or process).hardware_of(machine_name("cpu"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**self._hardware, "name": card, "cpu_name": card, "memory_bytes": memory_bytes}))

    def write(self, **tables: Any) -> StudyFolder:
        """Writes the study file: the usual one with tables changed, key by key where that makes sense."""
        content = {key: dict(value) if isinstance(value, dict) else value for key, value in STUDY.items()}
        content["base"]["log_dir"] = str(self.log)
        for key, value in tables.items():
            if isinstance(value, dict) and key not in ("space", "sampler", "pruner"):
                content[key] = {**content.get(key, {}), **value}
            else:
                content[key] = value
        self.file.write_text(tomli_w.dumps(content))
        return self

    def environment(self) -> dict[str, str]:
        """Returns the environment of commands on the study."""
        return {**_environment(), MARK: str(self.root)}

    def directory(self, out: str = "runs") -> RunDirectory:
        """Returns the run directory under a folder of run directories."""
        return RunDirectory(self.root / out / "fake")

    def copy_of(self, original: StudyFolder) -> StudyFolder:
        """Takes over all files of another folder, which others may look at while this one is worked on."""
        shutil.copytree(original.root, self.root, dirs_exist_ok=True)
        return self

    def place_hardware(self, out: str = "runs") -> None:
        """Puts the hardware profile into the run directory, if there is none: of a shared study this machine's own."""
        run = self.directory(out)
        hardware = run.hardware_of(machine_name("cpu")) if self.url else run.hardware
        if not hardware.exists():
            hardware.parent.mkdir(parents=True, exist_ok=True)
            hardware.write_text(json.dumps(self._hardware))

    def start(
        self,
        *options: str,
        out: str = "runs",
        process: str = "",
        plainly: bool = False,
        before: Callable[[], None] | None = None,
        through: Sequence[str] = (),
        **more: Any,
    ) -> Run:
        """Starts `autotune run` on the study, or another command on it.

        It is forked from a process that has done the imports (see `prepared`), unless the test says how to start it.

        Args:
            options: Further arguments; a first one without a dash is the command instead of `run`.
            out: Folder of the run directories.
            process: A name that `pretend` knows.
            plainly: Start an interpreter anew, as a user does.
            before: Called in the child before the program begins.
            through: A command that starts it, as `unshare --pid --fork`.
            more: Passed on to Popen.
        """
        self.place_hardware(out)
        command, rest = ("run", options) if not options or options[0].startswith("-") else (options[0], options[1:])
        self._runs += 1
        output = self.root / f"output-{self._runs}.txt"
        environment = {**self.environment(), CARD: self._cards.get(process or out, "")}
        arguments = [command, str(self.file), "--out", out, *rest]
        with output.open("wb") as file:
            if not plainly and before is None and not through and not more:
                forked = _server().start(arguments, self.root, environment, file.fileno())
                self._forked.append(forked)
                return Run(forked, output)
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(
                [*through, sys.executable, str(HERE / "drive.py"), *arguments],
                cwd=self.root,
                env=environment,
                start_new_session=True,
                preexec_fn=before,
                **{**streams, **more},
            )
        return Run(process, output)

    def command(self, *arguments: str) -> Run:
        """Runs any `autotune` command to its end, in this folder."""
        run = self.begin(*arguments)
        run.end()
        return run

    def begin(self, *arguments: str) -> Run:
        """Starts any `autotune` command in this folder."""
        self._runs += 1
        output = self.root / f"output-{self._runs}.txt"
        environment = self.environment()
        with output.open("wb") as file:
            forked = _server().start(list(arguments), self.root, environment, file.fileno())
        self._forked.append(forked)
        return Run(forked, output)

    def whole_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as users have it, its report included, to its end; the streams are kept apart."""
        return subprocess.run(
            [sys.executable, "-m", "autotune", *arguments],
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def run(self, *options: str, out: str = "runs", process: str = "", plainly: bool = False) -> Run:
        """Runs a command to its end."""
        run = self.start(*options, out=out, process=process, plainly=plainly)
        run.end()
        return run

    def wait_at_gate(self) -> None:
        """Waits until a training stands at the gate (the fault of that name)."""
        wait_for((self.log / "at-gate.txt").exists)

    def open_gate(self) -> None:
        """Lets every training through the gate from now on."""
        (self.log / "open").touch()

    def close_gate(self) -> None:
        """Stops the next training at the gate again."""
        (self.log / "open").unlink()
        (self.log / "at-gate.txt").unlink()

    def wait_until_empty(self) -> None:
        """Waits until no process of this folder lives."""
        wait_for(lambda: not self.living())

    def record(self, out: str = "runs") -> StudyRecord:
        """Reads what is stored."""
        return read_study(self.directory(out).root, self.url)

    def optuna_trials(self, out: str = "runs") -> dict[str, list[FrozenTrial]]:
        """Returns Optuna's own trials of every study in the storage (search, finals, full run), by its name."""
        return optuna_trials(self.directory(out), self.url)

    def started(self) -> list[Started]:
        """Returns the trainings that began, the probe left out."""
        file = self.log / "started.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        trainings = [line.split() for line in lines]
        all_of_them = [Started(int(pid), int(seed), float(lr), int(tokens)) for pid, seed, lr, tokens in trainings]
        # Probes are a twenty-fifth of a trial, which has twice the usual budget at the most; full runs are no shorter.
        return [training for training in all_of_them if training.tokens >= STUDY["budget"]["tokens"] // 10]

    def probed(self) -> int:
        """Returns how many probes began."""
        return (self.log / "started.txt").read_text().count("\n") - len(self.started())

    def living(self) -> list[psutil.Process]:
        """Returns the processes that belong to this folder and live, zombies left out."""
        # Of a fork the system tells the environment of the process that it was forked from.
        forked = {command.pid for command in self._forked if command.poll() is None}
        return [process for process in psutil.process_iter() if self._is_ours(process, forked)]

    def _is_ours(self, process: psutil.Process, forked: set[int]) -> bool:
        try:
            is_marked = process.pid in forked or process.environ().get(MARK) == str(self.root)
            return is_marked and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def is_over(trials: Mapping[str, list[FrozenTrial]]) -> bool:
    """Whether no trial of any Optuna study waits or runs."""
    return all(trial.state.is_finished() for group in trials.values() for trial in group)
