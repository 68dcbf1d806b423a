"""Taking snapshots of a study into its mirror: what changed is written, then a manifest; then the oldest goes."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from autotune.core.attributes import StudyAttributes
from autotune.store.mirror import Beat, Content, Done, Manifest, Mirror, TornError
from autotune.store.mirrored_files import MirroredFiles
from autotune.store.run_directory import RunDirectory, files_below
from autotune.store.sqlite_file import BUSY_TIMEOUT_S, damage_of

KEPT = 2
"""Whole snapshots that a mirror keeps: a drive may lose what it has taken, most of all the newest."""
_NO_RECORDS = ("set_aside", "holder.json")


class YieldedError(Exception):
    """The mirror is somebody else's; it says whose, and nothing more is written there."""


class State(NamedTuple):
    """What a study's database says of the study as a whole.

    Args:
        begun: When it was begun, ISO 8601.
        done: How much of it is done.
    """

    begun: str
    done: Done


@dataclass(frozen=True)
class Taken:
    """What a snapshot came to.

    Args:
        manifest: The newest snapshot: the one that was taken, or the one before if nothing has changed since.
        is_new: Whether one was taken.
        written_bytes: What was written for it.
        seconds: What it took.
    """

    manifest: Manifest
    is_new: bool
    written_bytes: int
    seconds: float


def state_of(connection: sqlite3.Connection) -> State | None:
    """Return the state of the study in a database; None if none was begun in it.

    Told trials are counted, and not the snapshots that were taken: a run whose mirror had failed for hours would seem
    to be older than its last snapshot.

    Raises:
        sqlite3.Error: If it cannot be read.
    """

    def one(query: str, *values: str) -> tuple[object, ...] | None:
        row: tuple[object, ...] | None = connection.execute(query, values).fetchone()
        return row

    tables = one("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'trial_intermediate_values'")
    if tables != (1,):
        return None
    begun = one("SELECT value_json FROM study_user_attributes WHERE key = ?", StudyAttributes.created_at.name)
    if begun is None:
        return None

    ended = one("SELECT COUNT(*) FROM trials WHERE state NOT IN ('RUNNING', 'WAITING')")
    evaluations = one("SELECT COUNT(*) FROM trial_intermediate_values")
    assert ended is not None and evaluations is not None, "a count is always answered"
    return State(str(begun[0]).strip('"'), Done(int(str(ended[0])), int(str(evaluations[0]))))


class Snapshots:
    """Takes snapshots of one study, one after the other.

    Args:
        run: The run directory.
        folder: The mirror's folder, in which each study has one of its name; it must be there.
        writer: A random name of this process.
        beat: Called after each piece of work; may raise to end it.
    """

    def __init__(self, run: RunDirectory, folder: Path, writer: str, beat: Beat = lambda: None) -> None:
        self.mirror = Mirror(folder / run.name)
        self._run = run
        self._folder = folder
        self._writer = writer
        self._beat = beat
        self._last: Manifest | None = None
        self._files = MirroredFiles(self.mirror, writer, beat)

    def take(self) -> Taken | None:
        """Take a snapshot.

        Returns:
            None if there is nothing to take yet.

        Raises:
            YieldedError: If the mirror belongs to another study, or another run has written or knows more.
            OSError, sqlite3.Error, TornError: If the drive or the disk fails; what is in the mirror stays as it is.
        """
        began = time.monotonic()
        staged = self._run.root / ".mirror.db.tmp"
        try:
            state = self._stage(staged)
            if state is None:
                return None
            manifests = self._own(state)
            self._files.begin({sha: content for each in manifests for sha, content in each.objects.items()})
            files = {self._run.database.name: self._files.copy(staged, "")}
            files |= {name: content for name, content in self._records() if content is not None}
        finally:
            _remove_database(staged)

        if not self._run.spec.exists():
            raise FileNotFoundError(f"{self._run.root} is gone")
        is_new = self._last is None or self._last not in manifests or _hashes(self._last.files) != _hashes(files)
        if is_new:
            self._last = self._write_manifest(state, files)
            self._remove_old([self._last, *manifests])
        assert self._last is not None, "a snapshot was taken now or before"
        return Taken(self._last, is_new, self._files.written_bytes, time.monotonic() - began)

    def _stage(self, staged: Path) -> State | None:
        """Copy the database beside itself as it is at one moment, and return its study's state.

        Raises:
            TornError: If it is damaged: it must not take the place of a sound one.
        """
        if not self._run.database.exists():
            return None

        _remove_database(staged)
        with (
            contextlib.closing(sqlite3.connect(self._run.database, timeout=BUSY_TIMEOUT_S)) as source,
            contextlib.closing(sqlite3.connect(staged)) as target,
        ):
            source.backup(target)
            # The copy is one file, which needs no journal beside it.
            target.execute("PRAGMA journal_mode=DELETE")
            if damage := damage_of(target):
                raise TornError(f"the study's own database is damaged: {damage}")
            return state_of(target)

    def _own(self, state: State) -> list[Manifest]:
        """Return the snapshots that are there, the newest first, if this process may add to them.

        Raises:
            YieldedError: If it may not.
        """
        # A folder that is not there is a drive that is not mounted: to make it would fill the disk below.
        os.stat(self._folder)
        manifests, _ = self.mirror.manifests()
        newest = manifests[0] if manifests else None
        if newest is None or newest.writer == self._writer:
            return manifests

        if newest.begun != state.begun:
            raise YieldedError(another_study(self.mirror, newest))
        # One that is further and torn was passed over at the start; its successor may be written.
        if newest.done > state.done and all(self.mirror.is_whole(each, self._beat) for each in newest.files.values()):
            raise YieldedError(
                f"{self.mirror.root} holds a later state of this study than this run has, written on {newest.host}: "
                "nothing more is mirrored there; park this run, and start it again to go on from that state"
            )
        if self._last is not None:
            raise YieldedError(
                f"another run of this study, on {newest.host}, writes to {self.mirror.root} as well: this run is no "
                "longer mirrored; stop one of the two"
            )
        return manifests

    def _records(self) -> Iterator[tuple[str, Content | None]]:
        """Yield the files of the run directory beside the database, each as it is when its turn comes."""
        root = self._run.root
        databases = (self._run.database, self._run.backup, self._run.larger_backup)
        left_out = {*_NO_RECORDS, *(path.name + end for path in databases for end in ("", "-wal", "-shm"))}
        for path in files_below(root, left_out):
            name = path.relative_to(root).as_posix()
            yield name, self._files.copy(path, name)

    def _write_manifest(self, state: State, files: dict[str, Content | None]) -> Manifest:
        """Write the manifest of what the mirror holds by now; the snapshot counts from then on.

        Raises:
            TornError: If the drive gives back something else than it was given.
        """
        contents = {name: content for name, content in files.items() if content is not None}
        generation = self.mirror.last_generation() + 1
        host = socket.gethostname()
        manifest = Manifest(generation, self._writer, host, time.time(), state.begun, state.done, contents)
        text = manifest.to_text()
        self._beat()
        self._files.write(self.mirror.snapshots / manifest.name, [text.encode()])
        if (self.mirror.snapshots / manifest.name).read_text(encoding="utf-8") != text:
            raise TornError("the drive does not give back what was written")
        return manifest

    def _remove_old(self, manifests: list[Manifest]) -> None:
        """Remove all but the newest whole snapshots, and what only the others name.

        As long as there are fewer whole ones than are kept, nothing is removed, torn ones included. Contents that no
        manifest names, as a killed process leaves them, go too, but not those of a writer that is just at work.

        Args:
            manifests: The snapshots, the newest first.
        """
        whole = [each for each in manifests if all(map(self.mirror.has, each.files.values()))][:KEPT]
        if len(whole) < KEPT:
            return

        kept = {each.name for each in whole}
        needed = {sha for each in whole for sha in each.objects}
        for path in list(self.mirror.snapshots.iterdir()):
            if path.name not in kept and not _is_in_progress(path):
                path.unlink(missing_ok=True)
            self._beat()
        for path in list((self.mirror.root / "objects").glob("*/*")):
            if path.name not in needed and not _is_in_progress(path):
                _remove_emptied(path)
            self._beat()


_IN_PROGRESS_S = 3600.0
"""Seconds for which a file that is being written is left alone, as another machine may be at it."""


def _is_in_progress(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.name.endswith(".tmp") and time.time() - path.stat().st_mtime < _IN_PROGRESS_S
    return False


def _remove_emptied(path: Path) -> None:
    """Empty a file and remove it: Google Drive keeps what is removed in its bin, where each checkpoint would count."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)
        path.unlink()


def another_study(mirror: Mirror, newest: Manifest) -> str:
    """Return what a person is told of a mirror that holds another study of the same name."""
    return (
        f"{mirror.root} holds another study of that name, which was begun {newest.begun} on {newest.host}: name "
        "another folder with --mirror, give this study another name, or move that folder away"
    )


def _hashes(files: Mapping[str, Content | None]) -> dict[str, str]:
    return {name: content.sha256 for name, content in files.items() if content is not None}


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
