"""What the event loop tells the outside: one line per event on the console and in the study's history."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from autotune.core.files import append_line
from autotune.core.records import EvalPoint, TrialResult, TrialStatus, Verdict
from autotune.progress.board import Board, title
from autotune.progress.tracker_feed import Tracking
from autotune.store.run_directory import RunDirectory, log_event

if TYPE_CHECKING:
    from autotune.engine.queue import Assignment, Queue
    from autotune.machine.gpu_monitor import GpuMonitor

MARKS = {
    TrialStatus.FINISHED: "✓",
    TrialStatus.PRUNED: "✂",
    TrialStatus.DIVERGED: "↗",
    TrialStatus.OUT_OF_MEMORY: "▣",
    TrialStatus.CRASHED: "✗",
    TrialStatus.INTERRUPTED: "…",
}
SAMPLE_EVERY_S = 5.0
# The page is written while a study runs: at most this often, and in at most this share of the time.
REFRESH_EVERY_S = 60.0
REFRESH_FRAC = 0.05
# A log that nothing was written to for so long gets a line that says how far the study is.
SILENCE_S = 300.0


@runtime_checkable
class Display(Protocol):
    """A `say` that can also draw a board, as `autotune.progress.terminal.Screen` on a terminal."""

    def __call__(self, line: str) -> None:
        """Prints a line."""

    def show(self, board: Board) -> None:
        """Draws the board, now or a moment later."""

    def close(self) -> None:
        """Takes the board away."""


class Listener:
    """Writes events to the study's history, to its trackers and, as lines of text, wherever `say` sends them.

    Args:
        run: The run directory.
        say: Takes a line for a person; if it is a `Display`, it is also given a board to draw.
        monitor: Source of GPU samples, or None on a machine without a GPU.
        refresh: Takes the run directory and writes what is to be seen of the study meanwhile; None for nothing.
        trackers: Names of the trackers that want to know.
    """

    def __init__(
        self,
        run: RunDirectory,
        say: Callable[[str], None],
        monitor: GpuMonitor | None = None,
        refresh: Callable[[Path], None] | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        self.run = run
        self.board = Board()
        self._display = say if isinstance(say, Display) else None
        self._tell = say
        self._said = time.monotonic()
        self._monitor = monitor
        self._tracking = Tracking(trackers, run, run.root.name, self.note)
        self._sampled = 0.0
        self._refresh = refresh
        self._refresh_due = time.monotonic() + REFRESH_EVERY_S
        self._cannot_refresh = ""

    def say(self, line: str) -> None:
        """Says a line to whoever listens."""
        self._said = time.monotonic()
        self._tell(line)

    def note(self, kind: str, message: str) -> None:
        """Says something about the study as a whole."""
        log_event(self.run, kind, message)
        self.say(message)

    def started(self, queue: Queue, assignment: Assignment, slot: str) -> None:
        """A trial began on a device slot."""
        number = assignment.trial.number
        log_event(self.run, "started", title(queue.kind, number), slot=slot)
        self._enter(queue)
        self.board.start(queue.kind, number, assignment.budget_tokens)
        if queue.kind == "full":
            self.say(f"full run of {assignment.budget_tokens:,} tokens begins on {slot}")
        settings = {**assignment.params, "seed": assignment.config.get("seed")}
        self._tracking.started(queue.kind, assignment.trial.number, settings)

    def progress(self, queue: Queue, assignment: Assignment, point: EvalPoint) -> None:
        """A trial was evaluated."""
        number, speed = assignment.trial.number, point.metrics.get("tokens_per_s")
        self.board.progress(queue.kind, number, point.tokens_seen, point.val_loss, speed)
        if queue.seeds == 1:
            self._tracking.point(queue.kind, assignment.trial.number, point)

    def ended(self, queue: Queue, assignment: Assignment, result: TrialResult) -> None:
        """A trial ended and its result is stored."""
        number = assignment.trial.number
        line = f"{MARKS[result.status]} {title(queue.kind, number)} {result.status}"
        best = False
        if result.status is TrialStatus.FINISHED:
            loss = result.points[-1].val_loss
            best = queue.kind == "trials" and (self.board.best is None or loss < self.board.best[0])
            self.board.best = (loss, number) if best else self.board.best
            line += f"  loss {loss:.4f}{' (best so far)' if best else ''}"
        elif result.cause:
            # A cause may begin with what it is the cause of: "diverged at 9,830 tokens".
            said = result.cause.startswith(result.status)
            line += result.cause.removeprefix(result.status) if said else f": {result.cause}"
        settings = " ".join(f"{path.rsplit('.', 1)[-1]}={_short(value)}" for path, value in assignment.params.items())
        log_event(self.run, "ended", line, seconds=result.seconds)
        line = f"{line}  [{result.seconds:.0f} s]  {settings}"
        self.board.end(queue.kind, number, line, result.status is not TrialStatus.INTERRUPTED)
        # A board has the last lines on it; of the rest a terminal keeps what is worth scrolling back to.
        if self._display is None or best or result.status is TrialStatus.CRASHED:
            self.say(line)
        # The curves of several seeds begin anew with each seed; their mean is one curve.
        for point in result.points if queue.seeds > 1 else ():
            self._tracking.point(queue.kind, assignment.trial.number, point)
        self._tracking.ended(queue.kind, assignment.trial.number, result)

    def concluded(self, verdict: Verdict, terms: str) -> None:
        """The study has a verdict; `terms` say what it was judged by."""
        self.note("verdict", f"verdict{terms}: {verdict.word}: {verdict.reason}")
        self._tracking.concluded(verdict)

    def close(self) -> None:
        """Nothing more will happen."""
        if self._display is not None:
            self._display.close()
        self._tracking.close()

    def tick(self) -> None:
        """Called often; takes a sample of the GPU's health every few seconds, and refreshes what is to be seen."""
        if self._monitor is not None and time.monotonic() - self._sampled >= SAMPLE_EVERY_S:
            self._sampled = time.monotonic()
            sample = self._monitor.sample()
            if sample is not None:
                append_line(self.run.gpu, asdict(sample))
                self.board.gpu = sample
        if self._refresh is not None and time.monotonic() >= self._refresh_due:
            self._refresh_page(self._refresh)
        if self._display is not None:
            self._display.show(self.board)
        elif time.monotonic() - self._said >= SILENCE_S and (line := self.board.line()):
            self.say(line)

    def _enter(self, queue: Queue) -> None:
        """Tells the board of a queue; one of fixed trials may have grown."""
        kind = self.board.kind
        if queue.kind == kind and queue.target is not None:
            return
        records = queue.records()
        if queue.kind == "trials" and kind != "trials":
            best = min(((record.loss, record.number) for record in records if record.loss is not None), default=None)
            self.board.best = best
        done = sum(record.result is not None and record.status is not TrialStatus.INTERRUPTED for record in records)
        total = sum(record.status is not TrialStatus.INTERRUPTED for record in records)
        self.board.enter(queue.kind, done, queue.study.spec.budget.trials if queue.kind == "trials" else total)

    def _refresh_page(self, refresh: Callable[[Path], None]) -> None:
        began = time.monotonic()
        try:
            refresh(self.run.root)
        except Exception as error:  # noqa: BLE001 - a page that cannot be written must not cost the night
            why = str(error) or type(error).__name__
            if why != self._cannot_refresh:
                self._cannot_refresh = why
                self.note("report", f"the report could not be refreshed, and the study goes on without: {why}")
        ended = time.monotonic()
        self._refresh_due = ended + max(REFRESH_EVERY_S, (ended - began) / REFRESH_FRAC)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
