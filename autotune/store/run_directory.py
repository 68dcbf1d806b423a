"""Where a study keeps what it produces, `runs/<study>/`, and how files there are written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shlex
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.errors import UserError
from autotune.core.files import append_line, read_json, write_json
from autotune.core.records import TrainingKind

if TYPE_CHECKING:
    from filelock import FileLock

_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What a file system without locks answers, by its make."""
_CHECKPOINTS = "checkpoints"
"""A folder of which the newest file alone is needed to go on."""
MACHINES = "machines"
"""Folder of what other machines' run directories of a shared study had of their own."""
_TRAINING = ("run", "promote")
"""The commands that train a study."""


@dataclass(frozen=True)
class RunDirectory:
    """Where a study keeps what it produces: `runs/<study>/`.

    Args:
        root: The directory itself.
        named: What a command calls the study by where this directory does not hold it: the study's file.
    """

    root: Path
    named: str = field(default="", compare=False)

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
        """The hardware profile, JSON, of a study that one machine trains."""
        return self.root / "hardware.json"

    def hardware_of(self, machine: str) -> Path:
        """Return the hardware profile of one of the machines that share a study, and perhaps this folder.

        Args:
            machine: Its name, as `autotune.machine.measurement.machine_name` gives it.
        """
        return self.root / f"hardware-{machine}.json"

    def profiles(self) -> list[Path]:
        """Return the hardware profiles of all machines, as far as they are here or were fetched."""
        shared = sorted(self.root.glob("hardware-*.json"))
        return [self.hardware, *shared, *self.of_machines("hardware*.json")]

    @property
    def database(self) -> Path:
        """The Optuna study, SQLite."""
        return self.root / "study.db"

    @property
    def backup(self) -> Path:
        """The last good copy of the database."""
        return self.root / "study.backup.db"

    @property
    def larger_backup(self) -> Path:
        """A backup of more trials than the database holds since somebody has put it back from elsewhere."""
        return self.root / "study.backup-before.db"

    @property
    def events(self) -> Path:
        """What happened, a JSON line each."""
        return self.root / "events.jsonl"

    def of_machines(self, name: str) -> list[Path]:
        """Return a file of each other machine's run directory, as far as they were fetched.

        Args:
            name: Its name.
        """
        return sorted(self.root.glob(f"{MACHINES}/*/{name}"))

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

    @property
    def options(self) -> Path:
        """The options that commands which train were last given here, JSON: lists by the command's name."""
        return self.root / "options.json"

    def trial(self, queue: str, number: int) -> Path:
        """Return the folder of one trial.

        Args:
            queue: "trials", "finals", or the folder of a full run.
            number: Optuna's trial number in that queue.
        """
        return self.root / queue / f"{number:04d}"

    @property
    def name(self) -> str:
        """The study's name on the command line: the folder's, whatever its study file calls it."""
        return self.root.name or self.root.resolve().name

    def has_trial_files(self) -> bool:
        """Return whether there are files of trainings."""
        folders = [self.root / kind.value for kind in TrainingKind]
        return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)

    def require_unmoved(self) -> None:
        """Refuse to go on in a folder that is gone: what is stored would be in another place than the files.

        Raises:
            UserError: With exit code 3 if the folder was moved, renamed or deleted since the study was opened.
        """
        if not self.spec.exists():
            raise UserError(
                f"{self.root} was moved, renamed or deleted while the study ran; what was stored before is in it, "
                f"wherever it is now: go on there with `autotune run` and its new name, then delete {self.root}",
                3,
            )

    def set_aside(self, folder: Path) -> Path | None:
        """Move the files of a training that the database does not know away, so that another's are not mixed with them.

        Args:
            folder: Where a training is about to begin.

        Returns:
            Where they are now, None if there were none.
        """
        if not folder.is_dir() or not any(folder.iterdir()):
            return None

        kept = self.root / "set_aside"
        kept.mkdir(exist_ok=True)
        name = "-".join(folder.relative_to(self.root).parts)
        names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
        target = next(kept / free for free in names if not (kept / free).exists())

        folder.rename(target)
        return target

    def keep_options(self, given: Mapping[str, Sequence[str]]) -> None:
        """Keep how the study was started, for the commands that go on with it: see `command`.

        Args:
            given: Options by the name of the command that is to have them; those of other commands stay.
        """
        kept = {verb: self._kept_options(verb) for verb in _TRAINING}
        write_json(self.options, {**kept, **{verb: list(options) for verb, options in given.items()}})

    def _kept_options(self, verb: str) -> list[str]:
        kept = read_json(self.options)
        options = kept.get(verb) if isinstance(kept, dict) else None
        return list(map(str, options)) if isinstance(options, list) else []

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command on this study, to be typed where its `runs/` is.

        One that trains has the options that the study was last started with: device, hours, session and mirror.

        Args:
            verb: "run", "promote", "status" ...
            arguments: What follows the study's name.
        """
        parent = self.root.parent if self.root.name else self.root.resolve().parent
        where = [] if parent.name == "runs" else ["--out", str(parent)]

        options = self._kept_options(verb) if verb in _TRAINING else []

        name = self.named if self.named and not self.spec.exists() else self.name
        return shlex.join(["autotune", verb, name, *arguments, *options, *where])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run directory for this process; the lock dies with the process, however it dies.

        Raises:
            UserError: With exit code 5 if another process holds it, with 3 if its disk has no locks.
        """
        from filelock import Timeout

        self.root.mkdir(parents=True, exist_ok=True)

        # A moment's patience: `autotune status` takes the lock for an instant to see whether it is free.
        lock = self._lock(timeout_s=0.5)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.name} {self._holder()}; wait for it, or stop it first", 5) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            raise UserError(
                f"{self.root}: its disk has no locks ({error.strerror}), so two runs could not be kept apart: choose "
                "a folder on a local disk with --out, or have the disk mounted with locks",
                3,
            ) from None

        try:
            self._sweep()
            write_json(self.holder, _this_holder())
            yield
        finally:
            # On a disk that fails meanwhile, its own error is to be told, and the lock ends with the process.
            with contextlib.suppress(OSError):
                self.holder.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                lock.release()

    def _lock(self, timeout_s: float) -> FileLock:
        from filelock import FileLock

        # Without locks filelock would take the file itself for one, which a killed process leaves behind.
        return FileLock(self.root / ".lock", timeout=timeout_s, fallback_to_soft=False)

    def _sweep(self) -> None:
        """Remove what a process that was killed while writing left behind."""
        for stray in self.root.rglob(".*.tmp"):
            stray.unlink(missing_ok=True)

    def running_pid(self) -> int | None:
        """Return the process that runs the study now, or None."""
        from filelock import Timeout

        if not os.path.exists(self.root / ".lock"):
            return None

        try:
            with self._lock(timeout_s=0):
                return None
        except Timeout:
            return self._holder_pid()
        except OSError:
            # It may not be written, or has no locks: what the holder wrote is all there is to see.
            return self._living_holder_pid()

    def takes_signals(self) -> bool:
        """Return whether signals to the process that runs the study reach it, as those to another thread do not."""
        holder = read_json(self.holder)
        return not (isinstance(holder, dict) and holder.get("thread"))

    def has_locks(self) -> bool:
        """Return whether the disk has locks of the kind that SQLite takes, which it would wait for as if one was held.

        They are tried on the file beside the database: closing that of the database would end SQLite's own.
        """
        try:
            with (self.root / ".lock").open("rb") as file:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _WITHOUT_LOCKS
        return True

    def _holder_pid(self) -> int | None:
        with contextlib.suppress(TypeError, KeyError, ValueError):
            return int(read_json(self.holder)["pid"])
        return None

    def _living_holder_pid(self) -> int | None:
        pid = self._holder_pid()
        if pid is None or pid <= 0 or read_json(self.holder).get("host") != socket.gethostname():
            return None

        try:
            os.kill(pid, 0)
        except PermissionError:
            return pid  # another user's
        except OSError:
            return None
        return pid

    def _holder(self) -> str:
        holder = read_json(self.holder)
        with contextlib.suppress(TypeError, KeyError, ValueError):
            since = datetime.fromisoformat(holder["since"]).strftime("%H:%M")
            return f"has been running since {since} (PID {holder['pid']})"
        return "is already running in another process"


def _this_holder() -> dict[str, Any]:
    """Return what is kept of the process that runs a study, and the name of its thread if it is not the main one."""
    holder: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname()}
    thread = threading.current_thread()
    if thread is not threading.main_thread():
        holder["thread"] = thread.name
    return holder | {"since": datetime.now().astimezone().isoformat()}


def log_event(run: RunDirectory, kind: str, message: str, **details: Any) -> None:
    """Append an event to the study's history."""
    append_line(run.events, {"time": time.time(), "kind": kind, "message": message, **details})


def files_below(folder: Path, left_out: Iterable[str] = ()) -> Iterator[Path]:
    """Yield the files below a folder, of checkpoints the newest; links and what is hidden or being written are left."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return

    files = []
    for entry in entries:
        is_passed_over = entry.name in left_out or entry.name.startswith(".") or entry.name.endswith(".tmp")
        if is_passed_over or entry.is_symlink():
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            files.append(Path(entry.path))
    yield from _newest(files) if folder.name == _CHECKPOINTS else files


def _newest(files: Iterable[Path]) -> list[Path]:
    """Return the file that was changed last, as a list of one; of none, none."""
    changed: list[tuple[float, Path]] = []
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            changed.append((path.stat().st_mtime, path))
    return [max(changed)[1]] if changed else []
