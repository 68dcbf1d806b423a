"""A study with a run directory, a database and a drive that its mirror is on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from study_case import make_queue, make_study, result

from autotune.core.attributes import StudyAttributes
from autotune.engine.queue import Queue
from autotune.store.mirror import Mirror
from autotune.store.run_directory import RunDirectory
from autotune.store.snapshots import Snapshots, Taken


class MirrorCase:
    """A study with a run directory, and a drive."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.queue: Queue = make_queue(folder, make_study(folder))
        self.run = RunDirectory(self.queue.run.root)
        attributes = StudyAttributes(self.queue.optuna_study)
        attributes.created_at = "2026-01-01T00:00:00"
        self.drive = folder / "drive"
        self.drive.mkdir()
        self.mirror = Mirror(self.drive / self.run.name)

    def snapshots(self, writer: str = "aa", beat: Callable[[], None] = lambda: None) -> Snapshots:
        return Snapshots(self.run, self.drive, writer, beat)

    def train(self) -> None:
        """Ends one more trial."""
        self.queue.optuna_study.enqueue_trial({})
        assignment = self.queue.take()
        assert assignment is not None
        self.queue.tell(assignment.trial, result(loss=3.0), assignment.folder)

    def write(self, name: str, text: str) -> Path:
        path = self.run.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def restored(self, tmp_path: Path, which: int = 0) -> RunDirectory:
        self.mirror.restore(self.mirror.manifests()[0][which], tmp_path / "restored")
        return RunDirectory(tmp_path / "restored")


def take(snapshots: Snapshots) -> Taken:
    taken = snapshots.take()
    assert taken is not None
    return taken


def trials_in(database: Path) -> int:
    connection = sqlite3.connect(database)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0])
    finally:
        connection.close()
