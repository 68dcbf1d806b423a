"""The first half of a night: the plan, the baseline and its noise, and the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Any

from autotune.core import objectives
from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.files import free_bytes
from autotune.core.peers import Stage
from autotune.core.records import TrialStatus
from autotune.core.study_results import DevicePlan, Noise
from autotune.engine.deadline import Deadline
from autotune.engine.queue import Queue
from autotune.finals.allotment import FEW_TRIALS
from autotune.finals.runner import FinalsRunner
from autotune.night import planner, taking_along, warm_start
from autotune.night.night import Night
from autotune.night.queues import Queues
from autotune.night.search_end import SearchEnd
from autotune.promotion.best_config import provenance
from autotune.store.absence import again_if_cut_off
from autotune.store.backup import back_up
from autotune.store.database import exclusive
from autotune.store.stored_spec import in_force
from autotune.store.study_record import read_study

_CAME_TO_NOTHING = frozenset(TrialStatus) - {TrialStatus.WAITING, TrialStatus.RUNNING, TrialStatus.FINISHED}
"""Ends of the default's training after which it is tried again."""


def plan_night(night: Night) -> None:
    """Measure the pace before the first trial, and say what is to be expected.

    Args:
        night: The open study.

    Raises:
        UserError: If the baseline does not train, if the time is too short, or with exit code 130 if it was stopped.
    """
    spec = night.spec
    trial_tokens = spec.budget.seeds * spec.budget.tokens
    stored = night.attributes.plan
    if stored is not None:
        plan_own_device(night)
        done = sum(trial.status.teaches for trial in read_study(night.run.root, night.spec.storage).trials)
        wanted = in_force(spec, night.attributes).most_trials
        night.observer.note("resumed", f"resuming: {done} of {wanted} trials are done")
        return

    night.options.say("probing the baseline ...")
    survey = planner.survey(
        night.study, night.profile, night.slots, night.deadline, night.heeds_stop, night.observer.preparing
    )
    night.loop.pace.expect(trial_tokens, survey.plan.trial_s)
    if survey.plan.refusal:
        raise UserError(survey.plan.refusal)
    if night.device_class:
        # What does not fit into this card may fit into another one's.
        survey = replace(survey, left={})
    _store(night, survey)

    now = datetime.now()
    lines = survey.lines(spec, night.profile, free_bytes(night.run.root), now)
    for kind, line in [*lines, *night.options.session.lines(survey.plan.total_s, now)]:
        night.observer.note(kind, line)


def plan_own_device(night: Night) -> None:
    """Let this process go by its own pace and memory, measured if the study was planned on a device of another class.

    Args:
        night: The open study, planned.

    Raises:
        UserError: If the baseline does not train on this device, or with exit code 130 if this process was stopped.
    """
    attributes, spec, pace = night.attributes, night.spec, night.loop.pace
    plan = attributes.plan
    assert plan is not None, "what is trained was planned"
    trial_s = plan.trial_s
    if night.device_class and night.device_class != attributes.planned_on:
        trial_s = (night.own_plan or _measured(night)).trial_s
    if not pace.seconds(1):
        pace.expect(spec.budget.seeds * spec.budget.tokens, trial_s)


def _measured(night: Night) -> DevicePlan:
    """Measure this process's device, and store what follows for all of its class."""
    words = f"probing the baseline on {night.device_class}, as the study was planned on {night.attributes.planned_on}"
    night.observer.note("fleet", words)
    # Without a deadline: a device on which the whole study would take too long may well train some of it.
    survey = planner.survey(
        night.study, night.profile, night.slots, Deadline(), night.heeds_stop, night.observer.preparing
    )
    model = None if survey.model is None else asdict(survey.model)
    own = DevicePlan(survey.plan.trial_s, survey.plan.max_pass_sequences, model)
    night.attributes.keep_plan_on(night.device_class, own)
    return own


def _store(night: Night, survey: planner.Survey) -> None:
    attributes = night.attributes
    attributes.probe_facts = dict(survey.baseline.facts)
    if night.membership.is_shared:
        attributes.planned_on = night.peer.device_class
    if survey.model is not None:
        attributes.cost_model = asdict(survey.model)
        attributes.ranges = survey.left
    attributes.provenance = provenance(night.spec, night.profile.to_json(), survey.baseline.facts)
    # The plan comes last: where it is, everything is.
    attributes.plan = survey.plan


def search(night: Night, queues: Queues, finals: FinalsRunner) -> None:
    """Train the baseline, measure its noise, and search until no time or no gain is left.

    Args:
        night: The open study, planned.
        queues: Its queues.
        finals: What is trained after the search, for which time is kept.

    Raises:
        StoppedError: If the user wants the run to end, or another process coordinates the study by now.
    """
    spec = night.spec
    night.attributes.search_ended = False
    queue = queues.search()
    _take_along(night)
    data_hash = str(night.attributes.probe_facts.get("data_hash", ""))
    earlier = list(warm_start.read(night.study, data_hash, night.attributes.plan))
    given = [*spec.enqueue, *(good for study in earlier for good in study.good)]
    _enqueue_baseline(night, queue, earlier)
    if night.membership.is_shared:  # whose peers begin to search at once
        _enqueue_settings(night, queue, given)
    night.enter(Stage.SEARCH)
    _train_baseline(night, queues.baseline(), finals)
    if night.is_stopped:
        return
    finals.noise()

    _enqueue_settings(night, queue, given)
    end = search_end(night, queue, finals)
    night.loop.run(queue, end.may_start)
    while not night.is_stopped and not night.loop.steering.ends_search():
        night.loop.run(queue, end.may_start)
    end.say_if_exhausted()
    if not night.is_stopped and not spec.storage:
        back_up(night.run)


def search_end(night: Night, queue: Queue, finals: FinalsRunner) -> SearchEnd:
    """Return what tells when the search ends.

    Args:
        night: The open study, planned.
        queue: The search.
        finals: What is trained after it, for which time is kept.
    """
    plan = night.attributes.plan
    assert plan is not None, "a search begins after the night is planned"
    fit = plan.trials + plan.taken
    return SearchEnd(queue, night.deadline, finals.reserve_s, partial(_provable, night), night.observer, fit)


@again_if_cut_off
def _take_along(night: Night) -> None:
    with exclusive(night.search.storage, night.spec.name):
        hardware = night.profile.to_json()
        for line in taking_along.take(night.study, night.search.optuna_study, hardware, night.attributes.plan):
            night.observer.note("taken along", line)


@again_if_cut_off
def _enqueue_baseline(night: Night, queue: Queue, earlier: Sequence[warm_start.Earlier]) -> None:
    """Queue the default settings, and teach the sampler what earlier studies found."""
    spec = night.spec
    with exclusive(night.search.storage, spec.name):
        queue.enqueue(spec.space.baseline(spec.base), role="baseline")
        for study in earlier:
            if warm_start.teach(night.search.optuna_study, spec, study):
                night.observer.note("warm start", study.describe())


@again_if_cut_off
def _enqueue_settings(night: Night, queue: Queue, settings: Sequence[Mapping[str, Any]]) -> None:
    """Queue settings that the study file, or an earlier study, names."""
    with exclusive(night.search.storage, night.spec.name):
        for each in settings:
            queue.enqueue(each, role="search")


def _train_baseline(night: Night, queue: Queue, finals: FinalsRunner) -> None:
    """Train the default settings, again if they came to nothing before: without them nothing can be proved.

    Raises:
        UserError: If there is no time for a search and its proof, or if the default settings do not train.
    """
    record = read_study(night.run.root, night.spec.storage)
    allotment = finals.allotment()
    done = sum(trial.status.teaches for trial in record.trials)
    if done < FEW_TRIALS and allotment.is_too_short:
        raise UserError(allotment.refusal())

    baseline = record.baseline
    if baseline is not None and baseline.status in _CAME_TO_NOTHING:
        queue.try_again(baseline.number)

    # By itself: a peer that finds another process at it goes on.
    has_time = night.deadline.has_time(finals.reserve_s)
    night.loop.run(queue, has_time, awaits_peers=False)

    # What crashed once may have been a fault of the machine.
    baseline = read_study(night.run.root, night.spec.storage).baseline
    if baseline is not None and baseline.status is TrialStatus.CRASHED and not night.is_stopped:
        queue.try_again(baseline.number)
        night.loop.run(queue, has_time, awaits_peers=False)
        baseline = read_study(night.run.root, night.spec.storage).baseline

    if night.is_stopped or baseline is None or baseline.status not in _CAME_TO_NOTHING:
        return

    cause, log = "", ""
    if baseline.result is not None:
        cause = baseline.result.cause
        log = f"; see {night.run.root / baseline.result.log}"
    raise UserError(
        f"the default settings did not train ({cause or baseline.status}), so no gain over them could be proved and "
        f"the search does not begin{log}; `{night.run.command('run')}` tries them again",
        4 if baseline.status.blames_settings else 1,
    )


def _provable(night: Night, attributes: StudyAttributes) -> Noise | None:
    """Return what gain can be proved, if it was measured and may end the search: a gain in loss alone may not."""
    may_end = night.spec.budget.ends_early and objectives.num_values(night.spec.objective) == 1
    return attributes.noise if may_end else None
