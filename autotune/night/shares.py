"""How the time of a night is shared: the search, the runs on fresh seeds, and the full run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.engine.probes import Probe
from autotune.finals.allotment import FEW_TRIALS, Allotment, allot
from autotune.night.search_share import search_seconds
from autotune.promotion.early_end import END_MARGIN, EXPORT_S
from autotune.promotion.run_length import Check, full_tokens, longest_run
from autotune.study.study_file import Study

_BEGIN_S = 10.0
"""Seconds that may pass between the plan and the first trial, rounded up: it is stored, and workers start."""


@dataclass(frozen=True)
class FullRunShare:
    """What a night has for its full run.

    Args:
        tokens: Length of the full run, also of one that is trained later.
        seconds: Of the run, the brackets before it and its export; 0 if the night trains none.
        later_s: What is kept for all of these and the report.
        takes_rest: Whether it takes what a search that is worth its time leaves of the night.
    """

    tokens: int
    seconds: float
    later_s: float
    takes_rest: bool = False


@dataclass(frozen=True)
class TimeShares:
    """A study and the time that it has.

    Args:
        study: The study.
        probe: A short training of the baseline.
        slots: Devices that train at once, >= 1.
        seconds_left: Seconds until the deadline; infinite without one.
    """

    study: Study
    probe: Probe
    slots: int
    seconds_left: float

    @property
    def training_s(self) -> float:
        """Seconds of a training of a trial's length."""
        return max(self.probe.seconds_for(self.study.spec.budget.tokens), 1e-6)

    @property
    def trial_s(self) -> float:
        """Seconds of a whole trial with all its seeds, divided by how many train at once."""
        return self.study.spec.budget.seeds * self.training_s / self.slots

    def full_run_and_finals(self) -> tuple[FullRunShare, Allotment]:
        """Return the share of the full run, and that of the runs on fresh seeds; the search has the rest."""
        spec = self.study.spec
        proving = spec.finals.runs
        full_run = self._rest(proving + spec.attributing_runs()) or self._rest(proving) or self._of_given_length()
        finals = allot(spec, self.seconds_left, self.training_s, self.slots, full_run.later_s)

        # What the finals are spared is the full run's.
        if full_run.takes_rest and finals.describe_cuts():
            full_run = self._rest(finals.final_runs + finals.attributing_runs) or full_run
            finals = replace(finals, later_s=full_run.later_s)
        return full_run, finals

    def _of_given_length(self) -> FullRunShare:
        """Return the share of a full run whose length does not depend on the time."""
        tokens = full_tokens(self.study.spec)
        run_s = self._run_s(tokens)
        export_s = EXPORT_S if run_s else 0.0
        return FullRunShare(tokens, run_s + export_s, MARGIN * run_s + export_s + REPORT_S)

    def _rest(self, final_runs: int) -> FullRunShare | None:
        """Return the share of a full run that takes what a search that is worth its time leaves of the night.

        Args:
            final_runs: Trainings on fresh seeds that follow the search.

        Returns:
            None if the study file names a length, without a deadline, or if less than a trial's length is left.
        """
        spec = self.study.spec
        if not spec.promote.automatic or spec.promote.tokens or math.isinf(self.seconds_left):
            return None

        rest_s = self._rest_s(final_runs)
        tokens = self._tokens_within(rest_s)
        if tokens < spec.budget.tokens:
            return None

        # Brackets that do not fit beside a run of all the time that there is are not trained.
        run_s = min(self._run_s(tokens), rest_s)
        export_s = EXPORT_S if run_s else 0.0
        return FullRunShare(tokens, run_s + export_s, END_MARGIN * run_s + export_s + REPORT_S, takes_rest=True)

    def _rest_s(self, final_runs: int) -> float:
        """Return the seconds that the full run and its brackets may take beside so many runs on fresh seeds."""
        seconds = self.seconds_left - MARGIN * final_runs * self.training_s / self.slots - EXPORT_S - REPORT_S

        # Twice what a search must have, since the trials may turn out slower than the probe.
        least_s = _BEGIN_S + 2 * MARGIN * min(FEW_TRIALS, self.study.spec.most_trials) * self.trial_s
        searched_s = max(least_s, search_seconds(max(0.0, seconds), self.trial_s))
        return (seconds - searched_s) / END_MARGIN

    def _tokens_within(self, seconds: float) -> int:
        """Return the length of the longest run that is worth its time and fits into it, with its brackets."""
        length = self.study.spec.budget.tokens

        # Evaluations take as long in a longer run.
        as_much_again_s = max(self.probe.seconds_for(2 * length) - self.training_s, 1e-6)
        fit = int(length * (1 + (seconds - self.training_s) / as_much_again_s))
        return longest_run(self.study, self._text_tokens, length, fit, MARGIN / END_MARGIN)

    def _run_s(self, tokens: int) -> float:
        """Return the seconds of a full run of a length and of its brackets; 0 if the night trains none."""
        check = Check.of(self.study, self._text_tokens, tokens)
        return check.full_run_s(self.study.spec, tokens, self.probe.seconds_for, self.slots)

    @property
    def _text_tokens(self) -> int:
        return int(self.probe.facts.get("train_tokens", 0))
