"""What a process does for a study that another one coordinates: it trains what is queued until the night is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from autotune.core.errors import UserError
from autotune.core.peers import Stage, lack_coordinator, peers_in
from autotune.core.records import TrialStatus, VerdictWord
from autotune.engine.deadline import REPORT_S, Interval
from autotune.engine.event_loop import TICK_S
from autotune.engine.queue import Queue
from autotune.finals.runner import FinalsRunner, Judging
from autotune.night.agreement import WAITS_FOR_COORDINATOR
from autotune.night.night import Night
from autotune.night.promotion_step import PromotionStep
from autotune.night.queues import Queues, equal_seconds
from autotune.night.search_end import SearchEnd
from autotune.night.search_step import plan_own_device, search_end
from autotune.store.absence import MISSED_HEARTBEATS
from autotune.store.membership import living_peers

DONE, FAULT, NOTHING_FINISHED = 0, 1, 4
"""Exit codes."""


@dataclass(frozen=True)
class Steps:
    """What a night consists of, opened once it is planned.

    Args:
        night: The open study.
        elapsed_s: Seconds for which other processes had worked on the night before.
        opened: Queues of shorter runs, by the trial and the length of the full run that they are for.
    """

    night: Night
    elapsed_s: float = 0.0
    opened: dict[tuple[int, int], list[Queue]] = field(default_factory=dict)

    @cached_property
    def queues(self) -> Queues:
        """What is trained."""
        return Queues(self.night, equal_seconds(self.night))

    @cached_property
    def promotion(self) -> PromotionStep:
        """The full run."""
        return PromotionStep(self.night, self.queues)

    def checks(self) -> list[Queue]:
        """Return the queues of the shorter runs before the full run, as the coordinator has chosen it."""
        chosen = self.night.attributes.checked
        if chosen is None:
            return []
        if chosen not in self.opened:
            number, tokens = chosen
            brackets = self.promotion.brackets
            trial = next(trial for trial in brackets.record.trials if trial.number == number)
            self.opened[chosen] = list(brackets.queues(trial, tokens).values())
        return self.opened[chosen]

    @cached_property
    def finals(self) -> FinalsRunner:
        """The trainings on fresh seeds."""
        night = self.night

        def later_s() -> float:
            return self.promotion.seconds() + REPORT_S

        return FinalsRunner(
            spec=night.spec,
            optuna_study=night.search.optuna_study,
            open_queue=self.queues.finals,
            loop=night.loop,
            slots=len(night.slots),
            later_s=later_s,
            elapsed_s=self.elapsed_s,
            judging=Judging(
                own=night.device_class,
                judged_on=lambda: night.judged_on,
                training_s=lambda: night.trial_s_on(night.judged_on) / night.spec.budget.seeds,
                move_here=night.judge_here,
            ),
        )

    @cached_property
    def search(self) -> Queue:
        """The search."""
        return self.queues.search()

    @cached_property
    def search_end(self) -> SearchEnd:
        """When the search ends."""
        return search_end(self.night, self.search, self.finals)


def assist(night: Night, steps: Steps, ended_at: str) -> int | None:
    """Train what the coordinator queues.

    Args:
        night: The open study.
        steps: Its steps.
        ended_at: When the study had last come to its end, as this process joined it.

    Raises:
        UserError: If nobody is left who could plan the study, since that was refused.

    Returns:
        The exit code once the study has ended; None if this process was stopped, or has to coordinate from now on.
    """
    attributes = night.attributes
    lookout = Lookout(night)
    doing = ""
    while not night.heeds_stop():
        # Asked first: whoever coordinated stores the end of the study before it leaves its part to another.
        has_to_lead = night.membership.is_coordinator
        if attributes.ended_at != ended_at:
            return _ended(night)
        if has_to_lead:
            break
        stage = attributes.stage
        if night.options.is_worker and (stage is Stage.FULL_RUN or night.deadline.seconds_left < 0):
            night.observer.note("fleet", "all but the full run is over: nothing is left for a worker to train")
            return DONE
        lookout.look()

        before, doing = doing, "waiting"
        if Stage.SEARCH <= stage < Stage.FULL_RUN:
            doing = stage.name.lower()
        if Stage.FINALS <= stage < Stage.PROMOTION and night.judged_on != night.device_class:
            doing = f"waiting: what is on fresh seeds is trained on {night.judged_on}"
        if doing != before:
            night.tell(doing)
        if not doing.startswith("waiting"):
            _train(night, steps, stage)
        time.sleep(TICK_S)
    return None


class Lookout:
    """Sees when a worker waits for what will not come by itself.

    Args:
        night: The open study.
    """

    def __init__(self, night: Night) -> None:
        self._night = night
        self._looks = Interval(night.spec.limits.heartbeat_s)
        self._lacking = 0

    def look(self) -> None:
        """Say once, in a worker, that only workers are left; who has lost its session has some heartbeats to return.

        Raises:
            UserError: If that is so since the study cannot be planned.
        """
        night = self._night
        if not night.options.is_worker or not self._looks.has_passed():
            return

        attributes, search = night.attributes, night.search
        living = living_peers(search.storage, search.study.spec.name)
        lacks = lack_coordinator(peers_in(attributes.holder.user_attrs, living))
        self._lacking = self._lacking + 1 if lacks else 0
        if self._lacking != MISSED_HEARTBEATS:
            return

        refusal = attributes.refusal
        if refusal is not None:
            raise UserError(refusal.words, refusal.exit_code)
        night.observer.note("fleet", WAITS_FOR_COORDINATOR)


def _train(night: Night, steps: Steps, stage: Stage) -> None:
    """Train what is there to be trained, until nothing is left for now or this process has to coordinate."""
    plan_own_device(night)
    spec, membership = night.spec, night.membership

    def work(queue: Queue, may_start: Callable[[float], bool]) -> None:
        if queue.has_next():
            night.loop.run(queue, lambda s: not membership.is_coordinator and may_start(s), awaits_peers=False)

    if spec.finals.runs and night.judged_on == night.device_class:
        work(steps.finals.queue, night.deadline.has_time(steps.finals.later_s))
    if stage is Stage.PROMOTION:
        for queue in steps.checks():
            work(queue, night.deadline.has_time(lambda: steps.promotion.seconds() + REPORT_S))
    if stage is Stage.SEARCH and not night.is_stopped:
        work(steps.search, steps.search_end.may_start)


def _ended(night: Night) -> int:
    night.leave()
    verdict, full = night.attributes.verdict, night.attributes.full_run
    if verdict is None or verdict.word is VerdictWord.FAILED:
        return NOTHING_FINISHED

    night.observer.note("fleet", f"the study has come to its end: {verdict.word}")
    PromotionStep(night, Queues(night)).write_again()
    if full is None or not night.spec.promote.automatic:
        return DONE
    return exit_code(TrialStatus(full.status))


def exit_code(full_run: TrialStatus | None) -> int:
    """Return the exit code after a full run; one that waits for more time, or that another process trains, is no fault.

    Args:
        full_run: How it stands; None if none was asked for.
    """
    is_fault = full_run is not None and (full_run.is_failure or full_run is TrialStatus.INTERRUPTED)
    return FAULT if is_fault else DONE
