"""The only code that knows a run directory's paths, the Optuna storage and how files are written.

Optuna's storage holds everything that a report needs: a trial's result is stored with the trial before
Optuna is told, so that a kill at any moment leaves either a result to finish telling or a trial to repeat.
The files in `trials/` are twins of it for people and other programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.records import TrialRecord, TrialResult, TrialStatus, UserError, Verdict
from autotune.space import flatten
from autotune.spec import StudySpec

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

# Seconds that a writer waits for another process that holds the database, a dashboard for example.
BUSY_TIMEOUT_S = 60
# A peer counts as dead after this many heartbeats without a sign of life.
MISSED_HEARTBEATS = 3


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
            queue: "trials" or "finals".
            number: Optuna's trial number in that queue.
        """
        return self.root / queue / f"{number:04d}"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the run directory for this process; the lock dies with the process, however it dies.

        Raises:
            UserError: With exit code 5 if another process holds it.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.root.name} is {self._holder()}; wait for it, or stop it first", 5) from None
        try:
            now = datetime.now().astimezone()
            write_json(self.holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now.isoformat()})
            yield
        finally:
            self.holder.unlink(missing_ok=True)
            lock.release()

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


# --- files -----------------------------------------------------------------------------------------------


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
    """Appends one JSON line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, default=str) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the JSON lines of a file; a torn last line is left out."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def require_space(folder: Path, min_free_bytes: int) -> None:
    """Refuses to go on when the disk is nearly full.

    Raises:
        UserError: If fewer than `min_free_bytes` are free.
    """
    free = shutil.disk_usage(folder).free
    if free < min_free_bytes:
        raise UserError(
            f"{free / 1e9:.1f} GB left on the disk of {folder}, {min_free_bytes / 1e9:.1f} GB are kept free; "
            "parked, nothing is lost: free some space and run again",
            3,
        )


# --- Optuna ----------------------------------------------------------------------------------------------


def open_storage(run: RunDirectory, spec_storage: str = "", heartbeat_s: int = 20) -> RDBStorage:
    """Opens the Optuna storage of a study: SQLite in the run directory, or a shared database.

    Args:
        run: The study's run directory.
        spec_storage: URL of the shared database, or "".
        heartbeat_s: Seconds between signs of life, for a shared database.

    Raises:
        UserError: If the database is damaged, cannot be reached or lacks its driver.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls heartbeats experimental on each use
        if spec_storage:
            return _open_shared(spec_storage, heartbeat_s)
        return _open_sqlite(run)


def is_shared(storage: RDBStorage) -> bool:
    """Whether several processes may work on the storage at once."""
    return storage.engine.dialect.name != "sqlite"


def _open_sqlite(run: RunDirectory) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    run.root.mkdir(parents=True, exist_ok=True)
    if run.database.exists():
        _require_sound(run)

    def connect() -> sqlite3.Connection:
        # isolation_level None leaves transactions to SQLAlchemy, whose "begin" below takes the write lock
        # at once: Optuna reads before it writes, and two readers that both want to write lose updates.
        connection = sqlite3.connect(
            run.database, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    storage = RDBStorage(f"sqlite:///{run.database}", engine_kwargs={"creator": connect})
    event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _require_sound(run: RunDirectory) -> None:
    try:
        with contextlib.closing(sqlite3.connect(run.database, timeout=BUSY_TIMEOUT_S)) as connection:
            if connection.execute("PRAGMA quick_check").fetchone() == ("ok",):
                return
    except sqlite3.DatabaseError:
        pass
    rescue = "there is no backup; move the folder away and start again"
    if run.backup.exists():
        when = datetime.fromtimestamp(run.backup.stat().st_mtime).strftime("%H:%M")
        rescue = (
            f"a backup from {when} is at {run.backup}: copy it over {run.database.name}, "
            f"delete {run.database.name}-wal and -shm, and run again"
        )
    raise UserError(f"{run.database} is damaged; {rescue}", 3)


def back_up(run: RunDirectory) -> None:
    """Copies the SQLite database to its backup with SQLite's own mechanism, while it may be in use."""
    if not run.database.exists():
        return
    temporary = run.backup.with_suffix(".tmp")
    with (
        contextlib.closing(sqlite3.connect(run.database, timeout=BUSY_TIMEOUT_S)) as source,
        contextlib.closing(sqlite3.connect(temporary)) as target,
    ):
        source.backup(target)
    os.replace(temporary, run.backup)


def _open_shared(url: str, heartbeat_s: int) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import OperationalError

    scheme, _, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        url = f"postgresql+psycopg://{rest}"
    try:
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=heartbeat_s,
            grace_period=MISSED_HEARTBEATS * heartbeat_s,
        )
    except ImportError:
        raise UserError(
            f'storage = "{scheme}://...": the database driver is missing; pip install -e ".[postgres]"', 3
        ) from None
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise UserError(f'storage = "{scheme}://...": cannot connect: {reason}', 3) from None


@contextlib.contextmanager
def exclusive(storage: RDBStorage, name: str) -> Iterator[None]:
    """Lets one process at a time into a block that must not be done twice.

    SQLite needs nothing, since its run directory is held by one process; PostgreSQL gives an advisory
    lock, which it releases by itself when the holder dies.

    Args:
        storage: The study's storage.
        name: What is protected; the study's name.
    """
    if not is_shared(storage):
        yield
        return
    from sqlalchemy import text

    with storage.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": name})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtext(:name))"), {"name": name})


def finals_name(study_name: str) -> str:
    """Returns the name of the Optuna study that holds the finals of a study."""
    return f"{study_name}.finals"


def open_study(
    storage: RDBStorage,
    spec: StudySpec,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Opens or creates the Optuna study, and refuses when the study file has changed since.

    Raises:
        UserError: Naming each setting that changed, and the ways out.
    """
    import optuna

    with exclusive(storage, spec.name):
        study = optuna.create_study(
            study_name=spec.name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            direction="minimize",
            load_if_exists=True,
        )
        stored = study.user_attrs.get("spec")
        if stored is None:
            study.set_user_attr("spec", spec.model_dump(mode="json"))
            study.set_user_attr("created_at", now_iso())
            return study
    before = StudySpec.model_validate(stored)
    if before.fingerprint() != spec.fingerprint():
        raise UserError(_changed(before, spec))
    return study


def _changed(before: StudySpec, after: StudySpec) -> str:
    old, new = flatten(before.semantics()), flatten(after.semantics())
    lines = [
        f"  {path}: was {old.get(path, 'absent')!r}, is {new.get(path, 'absent')!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    return (
        f"{after.name} was begun with other settings, and its trials would not be comparable:\n"
        + "\n".join(lines)
        + '\nput them back, or give the study another name (--set name="...") or another folder (--out)'
    )


def open_finals(storage: RDBStorage, spec: StudySpec) -> optuna.Study:
    """Opens or creates the Optuna study whose trials are the finals' re-runs."""
    import optuna

    return optuna.create_study(
        study_name=finals_name(spec.name),
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
        direction="minimize",
        load_if_exists=True,
    )


def save_result(trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
    """Stores a result with its trial and as a file; Optuna is told afterwards."""
    write_json(folder / "result.json", result.to_json())
    trial.set_user_attr("result", result.to_json())


# --- reading ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyRecord:
    """Everything stored about a study, read at one moment.

    Args:
        run: Its run directory.
        spec: The study file's content with the whole base config.
        trials: The search, in the order of numbers.
        finals: The finals' re-runs.
        hardware: The hardware profile as JSON; {} before it was taken.
        verdict: None before the finals.
        created_at: ISO 8601.
        events: What happened, oldest first.
        gpu: Samples of the GPU's health, oldest first.
        attributes: Further values stored with the study (plan, provenance, full run, ...).
    """

    run: RunDirectory
    spec: StudySpec
    trials: tuple[TrialRecord, ...]
    finals: tuple[TrialRecord, ...] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    created_at: str = ""
    events: tuple[Mapping[str, Any], ...] = ()
    gpu: tuple[Mapping[str, Any], ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> TrialRecord | None:
        """The search trial that ran the base config; the last of its attempts."""
        return next((trial for trial in reversed(self.trials) if trial.role == "baseline"), None)


def read_study(root: Path) -> StudyRecord:
    """Reads a study's stored records; it may be running meanwhile.

    Args:
        root: The run directory, `runs/<study>`.

    Raises:
        UserError: If there is no study there.
    """
    import optuna

    run = RunDirectory(root)
    spec_file = read_json(run.spec)
    if spec_file is None:
        known = sorted(path.parent.name for path in root.parent.glob("*/spec.json"))
        hint = f"; there is {', '.join(known)}" if known else "; `autotune run studies/...` makes one"
        raise UserError(f"no study at {root}{hint}")
    spec = StudySpec.model_validate(spec_file)
    storage = open_storage(run, spec.storage, spec.limits.heartbeat_s)
    summaries = {study.study_name: study for study in optuna.get_all_study_summaries(storage)}
    if spec.name not in summaries:
        return StudyRecord(run, spec, ())
    attributes = dict(summaries[spec.name].user_attrs)
    attributes.pop("spec", None)
    verdict = attributes.pop("verdict", None)
    return StudyRecord(
        run=run,
        spec=spec,
        trials=_records(storage, spec.name),
        finals=_records(storage, finals_name(spec.name)) if finals_name(spec.name) in summaries else (),
        hardware=read_json(run.hardware) or {},
        verdict=None if verdict is None else Verdict.from_json(verdict),
        created_at=str(attributes.pop("created_at", "")),
        events=tuple(read_lines(run.events)),
        gpu=tuple(read_lines(run.gpu)),
        attributes=attributes,
    )


def _records(storage: RDBStorage, name: str) -> tuple[TrialRecord, ...]:
    study_id = storage.get_study_id_from_name(name)
    return tuple(record_of(trial) for trial in storage.get_all_trials(study_id, deepcopy=False))


def record_of(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    """Returns our record of an Optuna trial."""
    from optuna.trial import TrialState

    stored = trial.user_attrs.get("result")
    result = None if stored is None else TrialResult.from_json(stored)
    unfinished = {TrialState.WAITING: TrialStatus.WAITING, TrialState.RUNNING: TrialStatus.RUNNING}
    if trial.state in unfinished:
        status = unfinished[trial.state]
    else:
        status = TrialStatus.INTERRUPTED if result is None else result.status
    history = trial.system_attrs.get("retry_history") or [None]
    return TrialRecord(
        number=trial.number,
        params=dict(trial.params or trial.system_attrs.get("fixed_params", {})),
        status=status,
        result=result,
        role=trial.user_attrs.get("role", "search"),
        seed=trial.user_attrs.get("seed", 0),
        arm=trial.user_attrs.get("arm"),
        values=dict(trial.intermediate_values),
        retry_of=history[-1],
        stage=trial.user_attrs.get("stage", ""),
    )


def now_iso() -> str:
    """Returns the time now, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def log_event(run: RunDirectory, kind: str, message: str, **details: Any) -> None:
    """Appends an event to the study's history."""
    append_line(run.events, {"time": time.time(), "kind": kind, "message": message, **details})
