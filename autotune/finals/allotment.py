"""How the time of a night is divided between the search and what follows it.

Where time is short, what follows the search is cut in this order: first which change gave what is left out, then there
are fewer finalists, down to one, which needs no choice. (More pairs than the first look takes are never planned for:
they are trained where time is left.) The pairs of the first look are kept, and so is the full run. The plan and the run
both ask here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from autotune.core.errors import UserError
from autotune.core.text import duration
from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.study.spec import StudySpec

FEW_TRIALS = 4
"""Trials, the baseline's included, that the search keeps time for before anything else; fewer would be no search."""
_SEARCH_FRAC = 0.5
"""Share of the time of search and finals below which the search is not pressed by what can be left out."""
_OPENING_S = 60.0
"""Seconds until the first trial: the process, the profile and the probes."""
_HOURS_STEP = 0.05
"""Hours that would be enough are told in steps of this many."""


@dataclass(frozen=True)
class Allotment:
    """What the time of a night is used for.

    Args:
        spec: The study.
        seconds: Time from the begin of the search to the deadline; infinite without one.
        training_s: Seconds of one training of a trial's length.
        slots: Devices that train at once.
        later_s: Seconds of the full run and its brackets, if the night trains them, and of the report.
        finalists: Trials that are trained again; 0 without finals.
        attributes: Whether it is found out which change gave what.
    """

    spec: StudySpec
    seconds: float
    training_s: float
    slots: int
    later_s: float
    finalists: int
    attributes: bool

    @property
    def final_runs(self) -> int:
        """Trainings that choose the winner and prove its gain, if the first look decides."""
        return self.spec.finals.model_copy(update={"finalists": self.finalists}).runs

    @property
    def attributing_runs(self) -> int:
        """The most trainings that find out which change gave what."""
        return self.spec.attributing_runs() if self.attributes else 0

    @property
    def finals_s(self) -> float:
        """Seconds of what is trained on fresh seeds."""
        return (self.final_runs + self.attributing_runs) * self.training_s / self.slots

    @property
    def search_s(self) -> float:
        """Seconds that are left for the search."""
        # Each start asks for the margin; without it the last run would not be started.
        return self.seconds - self.later_s - MARGIN * self.finals_s

    @property
    def reserve_s(self) -> float:
        """Seconds to keep for what follows the search; less than that takes, if a few trials would not fit else."""
        return self.later_s + max(0.0, min(MARGIN * self.finals_s, self.seconds - self.later_s - self._few_trials_s))

    @property
    def is_too_short(self) -> bool:
        """Whether not even a few trials and the proof of one fit."""
        return self.search_s < self._few_trials_s

    @property
    def whole_trials(self) -> float:
        """Trials that fit if none is stopped early."""
        # A trial starts if there is time for it with a margin.
        margin_s = (MARGIN - 1) * self._trial_s
        return max(0.0, self.search_s - margin_s) / max(self._trial_s, 1e-9) * self.slots

    @property
    def _trial_s(self) -> float:
        return self.spec.budget.seeds * self.training_s

    @property
    def _few_trials(self) -> int:
        return min(FEW_TRIALS, self.spec.most_trials)

    @property
    def _few_trials_s(self) -> float:
        return MARGIN * math.ceil(self._few_trials / self.slots) * self._trial_s

    def describe_cuts(self) -> str:
        """Return what is left out for lack of time, or ""."""
        cuts = []
        if self.spec.attributing_runs() and not self.attributes:
            cuts.append("which change gave what is not found out")
        if self.finalists < self.spec.finals.finalists:
            trials = "trial is" if self.finalists == 1 else "trials are"
            cuts.append(f"{self.finalists} {trials} trained again instead of {self.spec.finals.finalists}")

        return f"time is short, so {' and '.join(cuts)}" if cuts else ""

    def refusal(self) -> str:
        """Return why the time does not do for this study, and how much would."""
        parts = [f"{self._few_trials} trials"] if self._few_trials else []
        if self.final_runs:
            parts.append(f"the {self.final_runs} runs that prove the gain of the best")
        if self.later_s > REPORT_S:
            parts.append("the full run")
        needed_s = _OPENING_S + self.later_s + MARGIN * self.finals_s + self._few_trials_s
        hours = math.ceil(needed_s / 3600 / _HOURS_STEP) * _HOURS_STEP
        what = ", ".join(parts) or "its end"

        return (
            f"the {duration(max(0.0, self.seconds))} that are left are too short for this study: {what} "
            f"and the report take about {duration(needed_s)}; give it --hours {hours:.2f} or more, or make the trials "
            "shorter (budget.tokens)"
        )


def allot(spec: StudySpec, seconds: float, training_s: float, slots: int, later_s: float) -> Allotment:
    """Divide the time of a night: the least is cut that leaves the search its share.

    Args:
        spec: The study.
        seconds: Time from the begin of the search to the deadline; infinite without one.
        training_s: Seconds of one training of a trial's length.
        slots: Devices that train at once, >= 1.
        later_s: Seconds of the full run and its brackets, if the night trains them, and of the report.
    """
    whole_search_s = MARGIN * math.ceil(spec.most_trials / slots) * spec.budget.seeds * training_s
    enough_s = min(whole_search_s, _SEARCH_FRAC * (seconds - later_s))

    for finalists, attributes in _choices(spec):
        allotment = Allotment(spec, seconds, training_s, slots, later_s, finalists, attributes)
        if allotment.search_s >= enough_s:
            break

    return allotment


def least_study_s(spec: StudySpec, training_s: float, slots: int) -> float:
    """Return the seconds of the smallest study: a few trials and the proof of the best.

    Args:
        spec: The study.
        training_s: Seconds of one training of a trial's length.
        slots: Devices that train at once, >= 1.
    """
    least = Allotment(spec, 0.0, training_s, slots, 0.0, min(1, spec.finals.finalists), False)
    return least.finals_s + least._few_trials_s


def refuse_trials_of(spec: StudySpec, training_s: float, slots: int, about: str) -> UserError:
    """Return the error of a study whose trials are far too long for its night.

    Args:
        spec: The study.
        training_s: Seconds of one training of a trial's length.
        slots: Devices that train at once, >= 1.
        about: How well that is known: "about" or "more than".
    """
    needed_s = least_study_s(spec, training_s, slots)
    hours = math.ceil(needed_s / 360) / 10

    return UserError(
        f"one trial takes {about} {duration(training_s)} here, so the study would take at least {duration(needed_s)}: "
        "make the trials shorter (budget.tokens), the model smaller or the evaluations cheaper, "
        f"or give it --hours {hours:.1f} or more"
    )


def _choices(spec: StudySpec) -> Iterator[tuple[int, bool]]:
    """Yield finalists, and whether the changes are told apart, in the order in which they are cut."""
    finalists = spec.finals.finalists
    if spec.attributing_runs():
        yield finalists, True

    yield finalists, False
    for fewer in range(finalists - 1, 0, -1):
        yield fewer, False
