"""When a search ends before all of its trials were tried: no time is left, or no gain is left to be proved."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from autotune.core.attributes import StudyAttributes
from autotune.core.records import TrialRecord, TrialStatus
from autotune.core.study_results import Noise
from autotune.core.text import duration
from autotune.engine.deadline import Deadline
from autotune.engine.queue import Queue
from autotune.engine.trial_store import Look
from autotune.progress.observer import RunObserver
from autotune.store.stored_spec import in_force

MIN_TRIALS = 24
"""Trials that must have ended before a search is called done: the first half of fewer says too little."""
NEWS_FRAC = 0.2
"""Change of the number of trials that fit, as a share of it, that is worth a line on the console."""


def late_gain(trials: Sequence[TrialRecord]) -> float | None:
    """Return by how much the later half of a search, by what was trained, has lowered the best loss, nats per token.

    The best of 2n independent trials is expected to gain no more over the best of n than that did over the best of
    n/2 if their losses have a lower bound or a tail that falls as fast as an exponential one, and a sampler that
    learns gains most of it early: so it says what as many trials again would bring at the most.

    Args:
        trials: The search, by number.

    Returns:
        None while fewer than `MIN_TRIALS` have ended, or none of the first half finished.
    """
    ended = [trial for trial in trials if trial.status.teaches]
    losses = [trial.loss for trial in _first_half(ended) if trial.loss is not None]
    if len(ended) < MIN_TRIALS or not losses:
        return None

    best_of_all = min(loss for trial in ended if (loss := trial.loss) is not None)
    return min(losses) - best_of_all


def _first_half(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials of the first half of a search, by what was trained: later ones are stopped earlier and earlier.

    By their number the first half would have most of the training, and the later half little chance to gain.
    """
    ends = list(itertools.accumulate(trial.trained_tokens for trial in trials))
    return [trial for trial, end in zip(trials, ends, strict=True) if 2 * end <= ends[-1]]


class SearchEnd:
    """Tells whether a search may start another trial, and says why not, and when more or fewer fit than was said.

    Args:
        queue: The search.
        deadline: When everything must be done.
        reserve_s: Seconds to keep for what comes after the search, asked again each time.
        noise: Takes what is stored with the study; what gain can be proved, once that was measured.
        observer: Told what changes.
        fit: Trials that the plan lets fit.
    """

    def __init__(
        self,
        queue: Queue,
        deadline: Deadline,
        reserve_s: Callable[[], float],
        noise: Callable[[StudyAttributes], Noise | None],
        observer: RunObserver,
        fit: int,
    ) -> None:
        self._queue = queue
        self._deadline = deadline
        self._reserve_s = reserve_s
        self._noise = noise
        self._observer = observer
        self._fit = fit
        self._began: tuple[float, int] | None = None
        self._is_said = False

    def may_start(self, training_s: float) -> bool:
        """Return whether there is time for a training of so many seconds, and something to be gained by it."""
        look = self._queue.store.look()
        if not self._deadline.has_time(self._reserve_s)(training_s):
            self._say_no_time(look)
            return False

        self._replan(look)
        return look.has_trial_by_hand or not self._is_enough(look)

    def say_if_exhausted(self) -> None:
        """Say so if the search has ended because everything that its space holds was tried."""
        wanted = self._queue.store.spec.budget.trials
        begun = sum(trial.status is not TrialStatus.INTERRUPTED for trial in self._queue.records())
        if self._queue.store.attributes.exhausted and begun < wanted:
            self._say(f"every setting of the space was tried: the search ends after {begun} of {wanted} trials")

    def _say_no_time(self, look: Look) -> None:
        wanted = self._wanted(look)
        begun = sum(trial.status.teaches or trial.status is TrialStatus.RUNNING for trial in look.records)
        if begun >= wanted:
            return

        left = duration(max(0.0, self._deadline.seconds_left))
        kept = duration(self._reserve_s())
        self._say(
            f"no time for more than {begun} of {wanted} trials: of the {left} left, {kept} are kept for what follows "
            "the search"
        )

    def _say(self, why: str) -> None:
        if not self._is_said:
            self._is_said = True
            self._observer.note("search", why)

    def _wanted(self, look: Look) -> int:
        return in_force(self._queue.study.spec, look.attributes).most_trials

    def _is_enough(self, look: Look) -> bool:
        noise = self._noise(look.attributes)
        if noise is None:
            return False
        gain = late_gain(look.records)
        if gain is None or gain >= noise.provable_gain:
            return False

        metric = self._queue.study.trainer.metric
        self._say(
            f"the search ends early: its later half gained {metric.difference(gain)}, so more trials would hardly gain "
            f"the {metric.difference(noise.provable_gain)} that can be proved (budget.ends_early = false prevents this)"
        )
        return True

    def _replan(self, look: Look) -> None:
        """Says how many trials fit by what they took since this process began, if that is news."""
        done = sum(trial.status.teaches for trial in look.records)
        if self._began is None or self._deadline.seconds_left == float("inf"):
            self._began = time.monotonic(), done
            return

        began_at, before = self._began
        if done - before < MIN_TRIALS // 2:
            return

        each_s = (time.monotonic() - began_at) / (done - before)
        fit = min(self._wanted(look), done + int((self._deadline.seconds_left - self._reserve_s()) / each_s))
        if abs(fit - self._fit) > NEWS_FRAC * self._fit:
            self._observer.note("plan", f"at the pace of the trials so far, {fit} of them fit, not {self._fit}")
            self._fit = fit
