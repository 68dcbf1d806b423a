"""What the event loop tells the outside: one line per event on the console and in the study's history."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autotune.core.files import append_line
from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.records import EvalPoint, TrainingKind, TrialRecord, TrialResult, TrialStatus, Verdict
from autotune.core.text import seldom, short_number
from autotune.machine.contention import Contention
from autotune.progress.board import Board, title
from autotune.progress.mirroring import Mirroring
from autotune.progress.tracker_feed import Tracking
from autotune.store.run_directory import RunDirectory, log_event

if TYPE_CHECKING:
    from autotune.machine.gpu_monitor import GpuMonitor

_MARKS = {
    TrialStatus.FINISHED: "✓",
    TrialStatus.PRUNED: "✂",
    TrialStatus.STOPPED: "■",
    TrialStatus.DIVERGED: "↗",
    TrialStatus.OUT_OF_MEMORY: "▣",
    TrialStatus.CRASHED: "✗",
    TrialStatus.INTERRUPTED: "…",
}
_SAMPLE_EVERY_S = 5.0
"""Seconds between samples of the GPU's health."""
REFRESH_EVERY_S = 60.0
"""Least seconds between two writings of the page while a study runs."""
REFRESH_FRAC = 0.05
"""Largest share of the time that the writing of the page may take."""
_SILENCE_S = 300.0
"""Seconds without a line after which a log gets one that says how far the study is."""


@runtime_checkable
class Display(Protocol):
    """A `say` that can also draw a board, as `autotune.progress.terminal.Screen` on a terminal."""

    def __call__(self, line: str) -> None:
        """Print a line above the board."""

    def show(self, board: Board) -> None:
        """Draw the board, now or a moment later."""

    def close(self) -> None:
        """Take the board away."""


@dataclass(frozen=True)
class TrainingInfo:
    """What an observer is told of a training.

    Args:
        kind: What it is for.
        number: Its number among those of its kind.
        budget_tokens: Tokens that it trains on.
        params: Its settings by dotted path.
        seed: Its seed, the first of several.
        seeds: Seeds that it is trained with, one after the other.
        seeds_done: How many of them were trained to their end.
    """

    kind: TrainingKind
    number: int
    budget_tokens: int
    params: Mapping[str, Any]
    seed: int
    seeds: int = 1
    seeds_done: int = 0

    @property
    def title(self) -> str:
        """What it is called: "trial 7"."""
        return title(self.kind, self.number)

    def done_frac(self, tokens_seen: int) -> float:
        """Return how much of it is done, all of its seeds together.

        Args:
            tokens_seen: Tokens of the seed that is being trained.
        """
        seed_frac = tokens_seen / max(1, self.budget_tokens)
        return (self.seeds_done + seed_frac) / self.seeds


class RunObserver:
    """Writes events to the study's history, to its trackers and, as lines of text, wherever `say` sends them.

    Args:
        run: The run directory.
        say: Takes a line for a person; if it is a `Display`, it is also given a board to draw.
        monitor: Source of GPU samples, or None on a machine without a GPU.
        refresh: Takes the run directory and writes the live page of the study; None for no page.
        trackers: Names of the trackers that are told.
        mirror: What keeps the mirror of the study; None for no mirror.
        metric: What trainings report.
    """

    def __init__(
        self,
        run: RunDirectory,
        say: Callable[[str], None],
        monitor: GpuMonitor | None = None,
        refresh: Callable[[Path], None] | None = None,
        trackers: Sequence[str] = (),
        mirror: Mirroring | None = None,
        metric: Metric = TEXT_LOSS,
    ) -> None:
        self.run = run
        self.board = Board(metric=metric)
        self._display = say if isinstance(say, Display) else None
        self._tell = say
        self._said = time.monotonic()
        self._monitor = monitor
        self._tracking = Tracking(trackers, run, run.root.name, self.note, metric)
        self._sampled = 0.0
        self._contention = Contention()
        self._refresh = refresh
        self._refresh_due = time.monotonic() + REFRESH_EVERY_S
        self._cannot_refresh = ""
        self._mirror = mirror
        self._note_preparation = seldom(self._preparation)

    def say(self, line: str) -> None:
        """Pass a line on to whatever was given as `say`."""
        self._said = time.monotonic()
        self._tell(line)

    def note(self, kind: str, message: str) -> None:
        """Say something about the study as a whole, and keep it in its history."""
        log_event(self.run, kind, message)
        self.say(message)

    def entered(self, kind: TrainingKind, records: Sequence[TrialRecord], wanted: int | None) -> None:
        """Take notice that trainings of another kind begin, or that there may be more of the same kind.

        Args:
            kind: What they are for.
            records: Those that are stored.
            wanted: How many are wanted in all; None if those that are stored are all.
        """
        is_search_entered = kind is TrainingKind.SEARCH and self.board.kind is not kind
        if is_search_entered:
            finished = [(record.loss, record.number) for record in records if record.loss is not None]
            self.board.best = min(finished, default=None)

        lasting = [record for record in records if record.status is not TrialStatus.INTERRUPTED]
        done = sum(record.result is not None for record in lasting)
        total = len(lasting) if wanted is None else wanted
        self.board.enter(kind, done, total)

    def preparing(self, words: str) -> None:
        """Take notice of what is done before a training can begin, as its text is fetched.

        Args:
            words: How far it is, in a sentence.
        """
        self.board.preparing = words
        if self._display is not None:
            self._display.show(self.board)
        self._note_preparation(words)

    def _preparation(self, words: str) -> None:
        log_event(self.run, "preparing", words)
        # A terminal shows all of them on its board.
        if self._display is None:
            self.say(words)

    def started(self, training: TrainingInfo, slot: str) -> None:
        """Take notice that a training began on a device slot."""
        log_event(self.run, "started", training.title, slot=slot)
        self.board.preparing = ""
        self.board.start(training.kind, training.number)
        if training.kind is TrainingKind.SEARCH:
            self.board.trial_seeds = training.seeds
        if training.kind is TrainingKind.FULL:
            self.say(f"full run of {self.board.metric.budget(training.budget_tokens)} begins on {slot}")

        settings = {**training.params, "seed": training.seed}
        self._tracking.started(training.kind, training.number, settings)

    def progress(self, training: TrainingInfo, point: EvalPoint) -> None:
        """Take notice that a training was evaluated."""
        speed = point.metrics.get("tokens_per_s")
        self.board.preparing = ""
        done_frac = training.done_frac(point.tokens_seen)
        self.board.progress(training.kind, training.number, done_frac, point.val_loss, speed)

        if training.seeds == 1:
            self._tracking.point(training.kind, training.number, point)

    def ended(self, training: TrainingInfo, result: TrialResult) -> None:
        """Take notice that a training ended and that its result is stored."""
        is_best = self._is_best(training, result)
        if is_best:
            self.board.best = (result.points[-1].val_loss, training.number)

        line = f"{_MARKS[result.status]} {training.title} {_outcome(result, self.board.metric)}"
        if is_best:
            line += " (best so far)"
        log_event(self.run, "ended", line, seconds=result.seconds)

        line = f"{line}  [{result.seconds:.0f} s]  {_settings(training.params)}"
        self.board.preparing = ""
        self.board.end(training.kind, training.number, line, result.status is not TrialStatus.INTERRUPTED)
        # A board has the last lines on it; of the others a terminal keeps what is worth scrolling back to.
        if self._display is None or is_best or result.status is TrialStatus.CRASHED:
            self.say(line)

        # The curves of several seeds begin anew with each seed; their mean is one curve.
        if training.seeds > 1:
            for point in result.points:
                self._tracking.point(training.kind, training.number, point)
        self._tracking.ended(training.kind, training.number, result)

    def _is_best(self, training: TrainingInfo, result: TrialResult) -> bool:
        if training.kind is not TrainingKind.SEARCH or result.status is not TrialStatus.FINISHED:
            return False
        return self.board.best is None or result.points[-1].val_loss < self.board.best[0]

    def concluded(self, verdict: Verdict, terms: str) -> None:
        """Take notice that the study has a verdict; `terms` say what it was judged by."""
        self.note("verdict", f"verdict{terms}: {verdict.word}: {verdict.reason}")
        self._tracking.concluded(verdict)

    def close(self) -> None:
        """Take notice that nothing more will happen."""
        if self._display is not None:
            self._display.close()
        self._tracking.close()

    def tick(self, pids: Sequence[int] = ()) -> None:
        """Do what is due: sample the GPU's health and the CPU, write the page, draw the board. Called often.

        Args:
            pids: The processes that are training.
        """
        if self._monitor is not None and time.monotonic() - self._sampled >= _SAMPLE_EVERY_S:
            self._sample(self._monitor)
        self._note_news(self._contention.cpu_news(pids))
        if self._refresh is not None and time.monotonic() >= self._refresh_due:
            self._refresh_page(self._refresh)
        for news in self._mirror.news() if self._mirror else []:
            self.note("mirror", news)

        if self._display is not None:
            self._display.show(self.board)
        elif time.monotonic() - self._said >= _SILENCE_S and (line := self.board.line()):
            self.say(line)

    def _sample(self, monitor: GpuMonitor) -> None:
        self._sampled = time.monotonic()
        sample = monitor.sample()
        if sample is not None:
            append_line(self.run.gpu, asdict(sample))
            self.board.gpu = sample
            self._note_news(self._contention.gpu_news(sample))

    def _note_news(self, news: str) -> None:
        if news:
            self.note("machine", news)

    def _refresh_page(self, refresh: Callable[[Path], None]) -> None:
        began = time.monotonic()
        try:
            refresh(self.run.root)
        except Exception as error:  # noqa: BLE001 - a page that cannot be written must not cost the night
            why = str(error) or type(error).__name__
            if why != self._cannot_refresh:
                self._cannot_refresh = why
                self.note("report", f"the report could not be refreshed (the study goes on without it): {why}")

        ended = time.monotonic()
        self._refresh_due = ended + max(REFRESH_EVERY_S, (ended - began) / REFRESH_FRAC)


def _outcome(result: TrialResult, metric: Metric) -> str:
    """Return how a training ended: its status with its loss, or with the cause."""
    if result.status is TrialStatus.FINISHED:
        return f"{result.status}  {metric.words(result.points[-1].val_loss)}"
    if not result.cause:
        return result.status.value
    # A cause may begin with what it is the cause of: "diverged at 9,830 tokens".
    if result.cause.startswith(result.status):
        return result.cause
    return f"{result.status}: {result.cause}"


def _settings(params: Mapping[str, Any]) -> str:
    names = [path.rsplit(".", 1)[-1] for path in params]
    return " ".join(f"{name}={_short(value)}" for name, value in zip(names, params.values(), strict=True))


def _short(value: object) -> str:
    return short_number(value) if isinstance(value, float) else str(value)
