"""The rest of a night whose end was moved while it ran: how much of it the full run gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotune.core.study_results import Plan
from autotune.core.text import duration, time_of_day
from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.finals.allotment import FEW_TRIALS
from autotune.night.search_share import search_seconds
from autotune.promotion.early_end import END_MARGIN, EXPORT_S
from autotune.promotion.run_length import Check, full_tokens, longest_run
from autotune.store.trial_records import own_records
from autotune.study.study_file import Study

if TYPE_CHECKING:
    from autotune.night.night import Night


@dataclass(frozen=True)
class Rest:
    """How far a night is, and what is left of it.

    Args:
        seconds_left: Until the new end.
        token_s: Seconds of a training for each of its tokens.
        slots: Devices that train at once, >= 1.
        searched_s: Seconds that the search has taken so far; None once it is over.
        is_proved: Whether the finals have come to their verdict.
        train_tokens: Tokens of the whole training text; 0 if that is not known.
    """

    seconds_left: float
    token_s: float
    slots: int
    searched_s: float | None
    is_proved: bool
    train_tokens: int

    def seconds_for(self, tokens: int) -> float:
        """Return the seconds of a training.

        Args:
            tokens: Its length.
        """
        return self.token_s * tokens


def replanned(study: Study, plan: Plan, rest: Rest) -> Plan:
    """Return the plan of a night with another end: an automatic full run takes what search and finals leave of it.

    One whose length was fixed keeps it, as long as it fits beside the finals.

    Args:
        study: The study.
        plan: As it was made before.
        rest: What is left.
    """
    spec = study.spec
    if not spec.promote.automatic or not rest.token_s:
        return plan

    finals_s = 0.0 if rest.is_proved else MARGIN * plan.finals_s
    seconds = rest.seconds_left - finals_s - EXPORT_S - REPORT_S
    if not plan.run_tokens and MARGIN * plan.full_s <= seconds:
        return plan

    # The search gets what it is worth beside a full run, less what it has had.
    trial_s = spec.budget.seeds * spec.budget.tokens * rest.token_s / rest.slots
    further_s = 0.0
    if rest.searched_s is not None:
        least_s = MARGIN * min(FEW_TRIALS, spec.most_trials) * trial_s
        worth_s = search_seconds(max(0.0, seconds) + rest.searched_s, trial_s)
        further_s = max(0.0, max(least_s, worth_s) - rest.searched_s)

    fit = int((seconds - further_s) / END_MARGIN / rest.token_s)
    length = spec.budget.tokens
    run = longest_run(study, rest.train_tokens, length, max(0, fit), MARGIN / END_MARGIN)
    if run < length:
        # It waits for more time, and the finals get what there is.
        return replace(plan, run_tokens=length, full_s=0.0)

    check = Check.of(study, rest.train_tokens, run)
    run_s = check.full_run_s(spec, full_tokens(spec, replace(plan, run_tokens=run)), rest.seconds_for, rest.slots)
    return replace(plan, run_tokens=run, full_s=min(run_s, (seconds - further_s) / END_MARGIN) + EXPORT_S)


def describe_rest(plan: Plan, seconds_left: float) -> str:
    """Return what becomes of the full run in a night with another end, in a sentence.

    Args:
        plan: As it is made anew.
        seconds_left: Until that end.
    """
    end = time_of_day(seconds_left)
    if not plan.full_s:
        return f"plan: until {end} there is no time for a full run after the search and its proof"
    return f"plan: of the time until {end}, the full run gets about {duration(plan.full_s)}"


def replan_rest(night: Night) -> None:
    """Plan the rest of a night anew, after its end was moved."""
    attributes = night.attributes
    plan = attributes.plan
    # A full run that has begun moves its own end, by its own pace.
    if plan is None or attributes.full_run is not None:
        return

    ended = [record.result for record in own_records(night.search.optuna_study.get_trials(), night.spec.budget)]
    searched_s = sum(result.seconds for result in ended if result is not None) / len(night.slots)
    rest = Rest(
        seconds_left=night.deadline.seconds_left,
        token_s=night.loop.pace.usual_seconds(night.spec.budget.tokens) / night.spec.budget.tokens,
        slots=len(night.slots),
        searched_s=None if attributes.is_search_over else searched_s,
        is_proved=attributes.verdict is not None,
        train_tokens=int(attributes.probe_facts.get("train_tokens", 0)),
    )
    anew = replanned(night.study, plan, rest)
    if anew != plan:
        attributes.plan = anew
        night.observer.note("plan", describe_rest(anew, night.deadline.seconds_left))
