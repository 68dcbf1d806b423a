"""The engine's side of trackers: what happens is sent to their processes, and one that fails is no longer used."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.own_words import told
from autotune.core.records import EvalPoint, TrialResult, Verdict
from autotune.store.run_directory import RunDirectory

PATIENCE_S = 15.0
"""Seconds that a tracker may take to write the last of it; one that takes longer is ended by force."""


class Tracking:
    """Sends what happens in a study to the processes of its trackers; never waits for one before the end.

    Args:
        names: Keys of `spec.TRACKERS`.
        run: The run directory; a tracker writes into a folder of its name there, and what it prints into NAME.log.
        study: The study's name.
        note: Takes the kind of something noteworthy and a sentence about it.
        metric: What trainings report.
    """

    def __init__(
        self,
        names: Sequence[str],
        run: RunDirectory,
        study: str,
        note: Callable[[str, str], None],
        metric: Metric = TEXT_LOSS,
    ) -> None:
        self._note = note
        self._metric = metric
        self._feeds = [_Feed(name, run, study) for name in names]

    def started(self, kind: str, number: int, settings: Mapping[str, Any]) -> None:
        """Tell that a training began: the kind of its queue, its number there, its settings and seed."""
        self._send("started", run=_name(kind, number), group=kind, settings=dict(settings))

    def point(self, kind: str, number: int, point: EvalPoint) -> None:
        """Tell that a training was evaluated."""
        metrics = told({"val_loss": point.val_loss, **point.metrics}, self._metric)
        self._send("point", run=_name(kind, number), tokens=point.tokens_seen, metrics=metrics)

    def ended(self, kind: str, number: int, result: TrialResult) -> None:
        """Tell that a training ended."""
        facts = {"cause": result.cause, "seconds": round(result.seconds, 3), "device": result.device}
        self._send("ended", run=_name(kind, number), status=str(result.status), facts=facts)

    def concluded(self, verdict: Verdict) -> None:
        """Tell that the study has a verdict."""
        names = ("winner", "baseline_loss", "winner_loss", "gain", "gain_low", "gain_high")
        values = {name: getattr(verdict, name) for name in names}
        facts = {name: value for name, value in values.items() if value is not None}
        self._send("concluded", text=f"{verdict.word}: {verdict.reason}", facts=told(facts, self._metric))

    def _send(self, event: str, **message: Any) -> None:
        line = json.dumps({"event": event, **message}, default=str) + "\n"
        for feed in list(self._feeds):
            feed.send(line)
            if feed.has_ended:
                self._leave_out(feed)

    def _leave_out(self, feed: _Feed) -> None:
        self._feeds.remove(feed)
        self._note("tracker", f"tracker {feed.name} failed and is no longer used: {feed.last_words}; see {feed.log}")

    def close(self) -> None:
        """Let the trackers write the last of it, and end their processes."""
        for feed in self._feeds:
            feed.finish()

        for feed in list(self._feeds):
            if not feed.wait(PATIENCE_S):
                self._leave_out(feed)


class _Feed:
    """The process of one tracker and the thread that writes to it, since a pipe that nobody reads fills up."""

    def __init__(self, name: str, run: RunDirectory, study: str) -> None:
        self.name = name
        self.log = run.root / f"{name}.log"
        folder = (run.root / name).absolute()

        # -P: what lies in the present folder must not stand in for a package.
        python = [sys.executable, "-P", "-m", "autotune.progress.trackers"]
        with self.log.open("ab") as file:
            self._process = subprocess.Popen(
                [*python, name, str(folder), study],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for the night; this ends with its input
                text=True,
                encoding="utf-8",
            )

        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def _write(self) -> None:
        assert self._process.stdin is not None
        # A process that has ended takes no more; `has_ended` says so.
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            while line := self._lines.get():
                stdin.write(line)
                stdin.flush()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended before its time."""
        return self._process.poll() is not None

    @property
    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        spoken = [line.strip() for line in lines if line.strip()]
        return spoken[-1] if spoken else "it ended without printing anything"

    def send(self, line: str) -> None:
        """Queue a line."""
        self._lines.put(line)

    def finish(self) -> None:
        """Queue the end."""
        self._lines.put("")

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end, end it by force if that does not come, and return whether all went well."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"it did not end within {timeout_s:g} s and was stopped\n")

        self._thread.join(timeout_s)
        return self._process.returncode == 0


def _name(kind: str, number: int) -> str:
    return f"{kind}-{number:04d}"
