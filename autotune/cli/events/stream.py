"""`autotune watch --json`: a study's events as they come, a line each, until the study ends or nobody reads on."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from autotune.cli import output
from autotune.cli.answers.events import Event, Heartbeat
from autotune.cli.answers.studies import State
from autotune.cli.events.history import History, Told, of_lines
from autotune.core.errors import UserError
from autotune.store.absence import Patience, patient
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import NotBegunError, StudyRecord, read_events, read_study

_LOOK_EVERY_S = 1.0
"""Seconds between two looks at the records."""
_LOOK_FRAC = 0.05
"""Largest share of a core that reading the records may take."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str) -> float:
    """Return a moment that a command line names, in seconds since 1970.

    Args:
        text: "30m" (s, m, h or d) for so long ago, seconds since 1970, or ISO 8601, local without a zone.

    Raises:
        UserError: If it is none of these.
    """
    if ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        return (
            float(text) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]+)?", text) else datetime.fromisoformat(text).timestamp()
        )
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f'--since {text}: write how long ago, such as 30m or 2h, or a time such as "2026-01-31T22:00"'
        ) from None


@dataclass
class Stream:
    """The events of a study that may not have begun, that runs, is parked, or has ended.

    Args:
        root: Its run directory.
        url: The shared database that the user names; "" if none.
        since: Nothing that happened before is told; seconds since 1970.
        heartbeat_s: Seconds without an event after which a sign of life is told.
    """

    root: Path
    url: str = ""
    since: float = 0.0
    heartbeat_s: float = 15.0
    is_over: bool = False
    _told: set[tuple[object, ...]] = field(default_factory=set)
    _signature: object = None
    _life: Callable[[], Event] | None = None
    _read_s: float = 0.0

    def news(self) -> list[Event]:
        """Return what has happened since it was last asked, in the order of time."""
        signature = self._current_signature()
        if signature == self._signature:
            return []

        began = time.process_time()
        # An address that has never answered may be wrong, which is told at once.
        with patient(Patience(_say_absence) if self._signature is not None else None):
            fresh = [told for told in self._look() if told.key not in self._told]
        self._read_s = time.process_time() - began
        self._signature = signature
        self._told |= {told.key for told in fresh}
        return [told.event for told in fresh if told.event.at >= self.since]

    def follow(self, wait: Callable[[float], bool]) -> Iterator[Event]:
        """Yield events as they come, until the study has ended.

        Args:
            wait: Waits for so many seconds; returns False if nobody reads on.
        """
        heard = time.monotonic()
        while True:
            for event in self.news():
                heard = time.monotonic()
                yield event
            if self.is_over:
                return

            if self._life is not None and time.monotonic() - heard >= self.heartbeat_s:
                heard = time.monotonic()
                yield self._life()
            pause_s = max(_LOOK_EVERY_S, self._read_s / _LOOK_FRAC)
            if not wait(min(pause_s, self.heartbeat_s)):
                return

    @property
    def _run(self) -> RunDirectory:
        return RunDirectory(self.root)

    def _current_signature(self) -> object:
        """Return what changes whenever the records do; a shared database has nothing of the kind."""
        run = self._run
        wal = run.database.with_name(run.database.name + "-wal")
        files = [_stat(path) for path in (run.spec, run.hardware, run.database, wal, run.events)]
        is_shared = not run.database.exists() and (run.spec.exists() or bool(self.url))
        return (*files, run.running_pid(), time.monotonic() if is_shared else 0)

    def _look(self) -> list[Told]:
        run = self._run
        record = self._record()
        if record is None:
            self._life = self._life_before
            return of_lines(run.name, read_events(run), {})

        history = History(record, time.time())
        self.is_over = history.is_over
        self._life = lambda: History(record, time.time()).heartbeat()
        return history.all()

    def _record(self) -> StudyRecord | None:
        """Return the study, from its folder or a database that the user names; None before it is stored."""
        if not self.url and not os.path.exists(self._run.spec):
            return None
        try:
            return read_study(self.root, self.url)
        except NotBegunError:
            return None

    def _life_before(self) -> Event:
        """Return a sign of life before the study is stored."""
        pid = self._run.running_pid()
        state: State = "not begun" if pid is None else "preparing"
        return Heartbeat(at=time.time(), study=self._run.name, state=state, running_pid=pid, trials={})


def _say_absence(_kind: str, words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def print_events(stream: Stream, once: bool) -> None:
    """Print a study's events, a line each; end without a word where nobody reads on, or on Ctrl-C.

    Args:
        stream: The study.
        once: Whether to end with what has happened until now.

    Raises:
        UserError: If there is no study to print `once`, or its records cannot be read.
    """
    if once:
        read_study(stream.root, stream.url)  # it raises if there is none
    elif not stream.root.exists() and not stream.url:
        print(f"waiting for {stream.root} to begin (Ctrl-C ends this)", file=sys.stderr, flush=True)

    try:
        events = stream.news() if once else stream.follow(_wait)
        for event in events:
            output.write(event.to_text(indent=None) + "\n")
    except (BrokenPipeError, KeyboardInterrupt):
        return


def _wait(seconds: float) -> bool:
    """Wait for so many seconds, and return whether stdout still has a reader."""
    descriptor = output.descriptor()
    if descriptor is None:
        time.sleep(seconds)
        return True

    poll = select.poll()
    poll.register(descriptor, 0)  # a pipe whose reader has left tells so unasked
    gone = poll.poll(1000 * seconds)
    return not any(flags & (select.POLLERR | select.POLLHUP) for _, flags in gone)
