"""How far a study is at this moment: what runs, what ended last, when it will be done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from autotune.core.text import time_of_day
from autotune.machine.gpu_monitor import GpuSample

LAST = 5
NOUNS = {"trials": "trial", "finals": "final", "bracket": "bracket", "full": "full run"}
PHASES = {
    "trials": "searching",
    "finals": "proving on fresh seeds",
    "bracket": "fitting to the length",
    "full": "full run",
}


@dataclass
class Training:
    """A training that runs.

    Args:
        title: "trial 7".
        began: When, monotonic seconds.
        budget_tokens: Its length.
        seen_tokens: Tokens at its last evaluation.
        loss: Of its last evaluation, nats per token, or None.
        tokens_per_s: Its speed as it says itself, or None.
    """

    title: str
    began: float
    budget_tokens: int
    seen_tokens: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None

    @property
    def done_frac(self) -> float:
        """How much of it is done, 0 to 1."""
        return min(1.0, self.seen_tokens / max(1, self.budget_tokens))

    def left_s(self, now: float) -> float | None:
        """Returns the seconds that it still takes at its pace so far, or None before its first evaluation."""
        return None if not self.seen_tokens else (now - self.began) * (1 - self.done_frac) / self.done_frac


@dataclass
class Board:
    """What is to be seen of a study while it works; filled by the listener, drawn by the screen.

    Args:
        clock: Monotonic seconds.
        kind: The queue that is worked at, "" before the first.
        done: Trainings of it that are done, those of earlier sessions among them.
        total: Trainings that it has, as far as is known.
        best: Lowest loss of the search and its trial, or None.
        running: What trains now, by kind and number.
        last: The lines of the trainings that ended last, newest last.
        gpu: The last sample of the GPU's health.
    """

    clock: Callable[[], float] = time.monotonic
    kind: str = ""
    done: int = 0
    total: int = 0
    best: tuple[float, int] | None = None
    running: dict[tuple[str, int], Training] = field(default_factory=dict)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST))
    gpu: GpuSample | None = None
    _began: float = 0.0
    _ended: int = 0

    def enter(self, kind: str, done: int, total: int) -> None:
        """Another queue is worked at, or a queue has grown.

        Args:
            kind: The queue.
            done: Of its trainings.
            total: Of its trainings.
        """
        if kind != self.kind:
            self._began, self._ended, self.done = self.clock(), 0, done
        self.kind, self.total = kind, max(total, self.done + len(self.running))

    def start(self, kind: str, number: int, budget_tokens: int) -> None:
        """A training began."""
        self.running[kind, number] = Training(title(kind, number), self.clock(), budget_tokens)
        self.total = max(self.total, self.done + len(self.running))

    def progress(self, kind: str, number: int, tokens: int, loss: float, tokens_per_s: float | None) -> None:
        """A training was evaluated."""
        if (training := self.running.get((kind, number))) is not None:
            training.seen_tokens, training.loss, training.tokens_per_s = tokens, loss, tokens_per_s

    def end(self, kind: str, number: int, line: str, counts: bool) -> None:
        """A training ended.

        Args:
            kind: Its queue.
            number: Its number there.
            line: What is said of it.
            counts: Whether it is done; an interrupted one comes again.
        """
        self.running.pop((kind, number), None)
        self.last.append(line)
        self.done += counts
        self._ended += counts

    def left_s(self) -> float | None:
        """Returns the seconds until the present queue is done, at its pace so far, or None while that is unknown."""
        if self.kind == "full":
            return next((training.left_s(self.clock()) for training in self.running.values()), None)
        if not self._ended:
            return None
        return (self.clock() - self._began) / self._ended * max(0, self.total - self.done)

    def headline(self) -> str:
        """Returns the phase, how much of it is done, and when it will be: "searching: 12 of 40, until about 02:10"."""
        words = PHASES.get(self.kind, self.kind)
        if self.kind != "full":
            words += f": {self.done} of {self.total}"
        left = self.left_s()
        return words if left is None else f"{words}, until about {time_of_day(left, datetime.now())}"

    def best_words(self) -> str:
        """Returns the lowest loss of the search, or ""."""
        return "" if self.best is None else f"best so far: loss {self.best[0]:.4f} (trial {self.best[1]}, one seed)"

    def gpu_words(self) -> str:
        """Returns the GPU's state in one line, or "" without one."""
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
        speeds = [training.tokens_per_s for training in self.running.values() if training.tokens_per_s]
        parts += [f"{speed:,.0f} tokens/s" for speed in speeds[:1]]
        return "GPU: " + ", ".join(parts)

    def line(self) -> str:
        """Returns everything in one line for a log, or "" when nothing runs."""
        if not self.running:
            return ""
        now = [f"{training.title} at {training.done_frac:.0%}" for training in self.running.values()]
        parts = [self.headline(), *now, self.best_words(), self.gpu_words()]
        return "… " + "; ".join(part for part in parts if part)


def title(kind: str, number: int) -> str:
    """Returns what a training is called: "trial 7"."""
    return NOUNS[kind] if kind == "full" else f"{NOUNS[kind]} {number}"
