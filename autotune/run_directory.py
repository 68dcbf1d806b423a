"""Where a study keeps what it produces, `runs/<study>/`, and how files there are written."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from autotune.records import UserError


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
        """Returns the folder of one trial.

        Args:
            queue: "trials", "finals", or the folder of a full run.
            number: Optuna's trial number in that queue.
        """
        return self.root / queue / f"{number:04d}"

    def command(self, verb: str, *arguments: str) -> str:
        """Returns a command on this study, to be typed where its `runs/` is.

        Args:
            verb: "run", "promote", "status" ...
            arguments: What follows the study's name.
        """
        where = [] if self.root.parent.name == "runs" else ["--out", str(self.root.parent)]
        return shlex.join(["autotune", verb, self.root.name, *arguments, *where])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the run directory for this process; the lock dies with the process, however it dies.

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
            raise UserError(f"{self.root.name} is {self._holder()}; wait for it, or stop it first", 5) from None
        try:
            self._sweep()
            now = datetime.now().astimezone()
            write_json(self.holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now.isoformat()})
            yield
        finally:
            self.holder.unlink(missing_ok=True)
            lock.release()

    def _sweep(self) -> None:
        """Removes what a process that was killed while writing left behind."""
        for stray in self.root.rglob(".*.tmp"):
            stray.unlink(missing_ok=True)

    def running_pid(self) -> int | None:
        """Returns the process that runs the study now, or None."""
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
            return "already run by another process"
        since = datetime.fromisoformat(holder["since"]).strftime("%H:%M")
        return f"already run by PID {holder['pid']} since {since}"


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader, and a crash, sees the old content or the new and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Writes a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, or None if it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Appends one JSON line, on a line of its own even after one that a crash has torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        start = b"\n" if _is_torn(file) else b""
        file.write(start + json.dumps(value, default=str).encode() + b"\n")


def _is_torn(file: BinaryIO) -> bool:
    """Whether a file that stands at its end lacks the end of its last line."""
    if not file.tell():
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the JSON lines of a file; a torn last line is left out."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def existing(folder: Path) -> Path:
    """Returns the folder itself, or the nearest one above it that exists (which may turn out to be a file)."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def free_bytes(folder: Path) -> int:
    """Returns the free disk where a folder is or will be."""
    return shutil.disk_usage(existing(folder)).free


def require_space(folder: Path, min_free_bytes: int) -> None:
    """Refuses to go on when the disk is nearly full.

    Raises:
        UserError: If fewer than `min_free_bytes` are free.
    """
    free = free_bytes(folder)
    if free < min_free_bytes:
        raise UserError(
            f"{free / 1e9:.1f} GB left on the disk of {folder}, {min_free_bytes / 1e9:.1f} GB are kept free; "
            "parked, nothing is lost: free some space and run again",
            3,
        )


def now_iso() -> str:
    """Returns the time now, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def log_event(run: RunDirectory, kind: str, message: str, **details: Any) -> None:
    """Appends an event to the study's history."""
    append_line(run.events, {"time": time.time(), "kind": kind, "message": message, **details})
