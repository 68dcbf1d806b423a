"""How far a study has come: what runs, what ended last, when it will be done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.records import TrainingKind
from autotune.core.text import of_seeds, time_of_day
from autotune.machine.gpu_monitor import GpuSample

_LAST = 5
"""Lines of ended trainings that are kept for the screen."""
_NOUNS = {
    TrainingKind.SEARCH: "trial",
    TrainingKind.FINALS: "final",
    TrainingKind.BRACKET: "bracket",
    TrainingKind.FULL: "full run",
}
_PHASES = {
    TrainingKind.SEARCH: "searching",
    TrainingKind.FINALS: "testing on fresh seeds",
    TrainingKind.BRACKET: "adjusting learning rates to the full run",
    TrainingKind.FULL: "full run",
}


@dataclass
class Training:
    """A training that runs.

    Args:
        title: "trial 7".
        began: When, monotonic seconds.
        done_frac: How much of it is done, 0 to 1, all of its seeds together.
        loss: Of its last evaluation, nats per token, or None.
        tokens_per_s: Its speed as it says itself, or None.
        is_watched: Whether its end is foreseen elsewhere, by more than its mean pace (`Board.foresee`).
        ends_at: The end that was foreseen, monotonic seconds; None if that is not known yet.
    """

    title: str
    began: float
    done_frac: float = 0.0
    loss: float | None = None
    tokens_per_s: float | None = None
    is_watched: bool = False
    ends_at: float | None = None

    def left_s(self, now: float) -> float | None:
        """Return the seconds that it still takes, by its mean pace if nothing better is known; None if nothing is.

        Args:
            now: The present, monotonic seconds.
        """
        if self.ends_at is not None:
            return max(0.0, self.ends_at - now)
        if self.is_watched or not self.done_frac:
            return None

        passed_s = now - self.began
        return passed_s * (1 - self.done_frac) / self.done_frac


@dataclass
class Board:
    """What is shown of a study while it runs; filled by the observer, drawn by the screen.

    Args:
        clock: Monotonic seconds.
        metric: What trainings report.
        kind: The kind of training in progress, None before the first.
        done: Trainings of that kind that are done, in earlier runs too.
        total: Trainings of that kind that there are, as far as is known.
        best: Lowest loss of the search and its trial, or None.
        trial_seeds: Seeds that each trial of the search is trained with; its loss is their mean.
        running: What trains now, by kind and number.
        last: The lines of the trainings that ended last, newest last.
        preparing: What is done before a training can begin, in a sentence, or "".
        gpu: The last sample of the GPU's health.
    """

    clock: Callable[[], float] = time.monotonic
    metric: Metric = TEXT_LOSS
    kind: TrainingKind | None = None
    done: int = 0
    total: int = 0
    best: tuple[float, int] | None = None
    trial_seeds: int = 1
    running: dict[tuple[TrainingKind, int], Training] = field(default_factory=dict)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST))
    gpu: GpuSample | None = None
    preparing: str = ""
    _began: float = 0.0
    _ended: int = 0

    def enter(self, kind: TrainingKind, done: int, total: int) -> None:
        """Show that another kind of training begins, or that there are more of the same kind.

        Args:
            kind: What is trained.
            done: Trainings of that kind that are done.
            total: Trainings of that kind that there are.
        """
        if kind != self.kind:
            self.kind = kind
            self.done = done
            self._began = self.clock()
            self._ended = 0

        self.total = max(total, self.done + len(self.running))

    def start(self, kind: TrainingKind, number: int) -> None:
        """Show that a training began."""
        self.running[kind, number] = Training(title(kind, number), self.clock())
        self.total = max(self.total, self.done + len(self.running))

    def progress(
        self, kind: TrainingKind, number: int, done_frac: float, loss: float, tokens_per_s: float | None
    ) -> None:
        """Show that a training was evaluated."""
        training = self.running.get((kind, number))
        if training is None:
            return

        training.done_frac = min(1.0, done_frac)
        training.loss = loss
        training.tokens_per_s = tokens_per_s

    def foresee(self, kind: TrainingKind, number: int, done_frac: float, left_s: float | None) -> None:
        """Show what is known of a training's end by more than its mean pace.

        Args:
            kind: What it is for.
            number: Its number among those.
            done_frac: How much of it is done, by the end that is foreseen.
            left_s: Seconds that it still takes; None if that is not known yet.
        """
        training = self.running.get((kind, number))
        if training is None:
            return

        training.done_frac = min(1.0, done_frac)
        training.is_watched = True
        training.ends_at = None if left_s is None else self.clock() + left_s

    def end(self, kind: TrainingKind, number: int, line: str, counts: bool) -> None:
        """Show that a training ended.

        Args:
            kind: What it was for.
            number: Its number among those.
            line: What is said of it.
            counts: Whether it is done; an interrupted one comes again.
        """
        self.running.pop((kind, number), None)
        self.last.append(line)
        self.done += counts
        self._ended += counts

    def left_s(self) -> float | None:
        """Return the seconds until trainings of the present kind are done, at their pace so far; None if unknown."""
        if self.kind is TrainingKind.FULL:
            only = next(iter(self.running.values()), None)
            return only.left_s(self.clock()) if only else None
        if not self._ended:
            return None

        each_s = (self.clock() - self._began) / self._ended
        return each_s * max(0, self.total - self.done)

    def headline(self) -> str:
        """Return the phase, how much of it is done, and when it will be: "searching: 12 of 40, until about 02:10"."""
        words = _PHASES[self.kind] if self.kind else ""
        if self.kind is not TrainingKind.FULL:
            words += f": {self.done} of {self.total}"

        left_s = self.left_s()
        if left_s is None:
            return words
        return f"{words}, until about {time_of_day(left_s, datetime.now())}"

    def best_words(self) -> str:
        """Return the lowest loss of the search, or ""."""
        if self.best is None:
            return ""

        loss, number = self.best
        return f"best so far: {self.metric.words(loss)} (trial {number}, {of_seeds(self.trial_seeds)})"

    def gpu_words(self) -> str:
        """Return the GPU's state in one line, or "" without one."""
        sample = self.gpu
        if sample is None:
            return ""

        readings = (
            (sample.temperature_c, 1.0, "{:.0f} °C"),
            (sample.power_w, 1.0, "{:.0f} W"),
            (sample.sm_clock_hz, 1e-9, "{:.2f} GHz"),
            (sample.utilization_frac, 100.0, "{:.0f} % busy"),
            (sample.memory_used_bytes, 2.0**-30, "{:.1f} GiB used"),
        )
        parts = [form.format(value * scale) for value, scale, form in readings if value is not None]

        # The speed of one training stands for all: they run on devices of one kind.
        speeds = [training.tokens_per_s for training in self.running.values() if training.tokens_per_s]
        parts += [f"{self.metric.budget(speed)}/s" for speed in speeds[:1]]
        return "GPU: " + ", ".join(parts)

    def line(self) -> str:
        """Return everything in one line for a log, or "" when nothing runs."""
        if not self.running:
            return ""

        now = [f"{training.title} at {training.done_frac:.0%}" for training in self.running.values()]
        parts = [self.headline(), self.preparing, *now, self.best_words(), self.gpu_words()]
        return "… " + "; ".join(part for part in parts if part)


def title(kind: TrainingKind, number: int) -> str:
    """Return what a training is called: "trial 7"."""
    if kind == TrainingKind.FULL:
        return _NOUNS[kind]
    return f"{_NOUNS[kind]} {number}"
