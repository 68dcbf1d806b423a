"""Where a study keeps what it produces, `runs/<study>/`, and how files there are written."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune.core.errors import UserError
from autotune.core.files import append_line, read_json, write_json


@dataclass(frozen=True)
class RunDirectory:
    """Where a study keeps what it produces: `runs/<study>/`.

    Args:
        root: The directory itself.
    """

    root: Path

    @property
    def study_file(self) -> Path:
        """The study file as it was when the study began."""
        return self.root / "study.toml"

    @property
    def spec(self) -> Path:
        """The validated study with the whole base config, JSON; marks the folder as a study's."""
        return self.root / "spec.json"

    @property
    def hardware(self) -> Path:
        """The hardware profile, JSON."""
        return self.root / "hardware.json"

    @property
    def database(self) -> Path:
        """The Optuna study, SQLite."""
        return self.root / "study.db"

    @property
    def backup(self) -> Path:
        """The last good copy of the database."""
        return self.root / "study.backup.db"

    @property
    def events(self) -> Path:
        """What happened, a JSON line each."""
        return self.root / "events.jsonl"

    @property
    def gpu(self) -> Path:
        """Samples of the GPU's health, a JSON line each."""
        return self.root / "gpu.jsonl"

    @property
    def best_config(self) -> Path:
        """The winner's configuration with its provenance, TOML."""
        return self.root / "best_config.toml"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.root / "report"

    @property
    def full(self) -> Path:
        """The folder of the promoted full run."""
        return self.root / "full"

    @property
    def holder(self) -> Path:
        """Who runs the study now, JSON."""
        return self.root / "holder.json"

    def trial(self, queue: str, number: int) -> Path:
        """Return the folder of one trial.

        Args:
            queue: "trials", "finals", or the folder of a full run.
            number: Optuna's trial number in that queue.
        """
        return self.root / queue / f"{number:04d}"

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command on this study, to be typed where its `runs/` is.

        Args:
            verb: "run", "promote", "status" ...
            arguments: What follows the study's name.
        """
        parent = self.root.parent
        where = [] if parent.name == "runs" else ["--out", str(parent)]

        return shlex.join(["autotune", verb, self.root.name, *arguments, *where])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run directory for this process; the lock dies with the process, however it dies.

        Raises:
            UserError: With exit code 5 if another process holds it.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)

        # A moment's patience: `autotune status` takes the lock for an instant to see whether it is free.
        lock = FileLock(self.root / ".lock", timeout=0.5)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.root.name} {self._holder()}; wait for it, or stop it first", 5) from None

        try:
            self._sweep()
            now = datetime.now().astimezone()
            write_json(self.holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now.isoformat()})
            yield
        finally:
            self.holder.unlink(missing_ok=True)
            lock.release()

    def _sweep(self) -> None:
        """Remove what a process that was killed while writing left behind."""
        for stray in self.root.rglob(".*.tmp"):
            stray.unlink(missing_ok=True)

    def running_pid(self) -> int | None:
        """Return the process that runs the study now, or None."""
        from filelock import FileLock, Timeout

        if not (self.root / ".lock").exists():
            return None

        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            with lock:
                return None
        except Timeout:
            holder = read_json(self.holder)
            return int(holder["pid"]) if holder else None

    def _holder(self) -> str:
        holder = read_json(self.holder)
        if not holder:
            return "is already running in another process"

        since = datetime.fromisoformat(holder["since"]).strftime("%H:%M")
        return f"has been running since {since} (PID {holder['pid']})"


def log_event(run: RunDirectory, kind: str, message: str, **details: Any) -> None:
    """Append an event to the study's history."""
    append_line(run.events, {"time": time.time(), "kind": kind, "message": message, **details})
