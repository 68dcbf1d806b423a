"""What a person may ask of a study as it runs: checked, all of it before any is stored, and stored for the process
that runs the study, or for the one that takes it up again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.records import TrialRecord, TrialStatus
from autotune.core.requests import AddTrial, SetEnd, SetRange, SetTrials, StopStudy, StopTrial, Wish, stopped_trials
from autotune.core.text import duration, shown, time_of_day
from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.promotion.next_step import is_at_work
from autotune.search.dimension import Dimension
from autotune.search.range_by_hand import changed_dimension, ends_or_choices, typed
from autotune.search.ranges import CHANGING_RANGE_SAMPLERS
from autotune.search.searched import present_space
from autotune.search.space import SearchSpace
from autotune.store.database import storage_to_write
from autotune.store.faults import explain_storage_errors
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.errors import did_you_mean, explain_validation_error
from autotune.study.refusals import refusal_of, refused_proposal, value_error
from autotune.study.spec import BudgetSpec
from autotune.study.study_file import Study


@dataclass(frozen=True)
class Orders:
    """What a person wants, as it was typed.

    Args:
        stop: Numbers of trials that are to end.
        add: Settings of trials to add, by dotted path.
        ranges: Low and high, or choices, by dotted path.
        trials: Trials at most; None for as many as before.
        ends_at: When everything is to be done, seconds since 1970; None for when it was.
    """

    stop: Sequence[int] = ()
    add: Sequence[Mapping[str, Any]] = ()
    ranges: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    trials: int | None = None
    ends_at: float | None = None


@dataclass(frozen=True)
class Accepted:
    """A wish that the study will see to.

    Args:
        wish: The wish.
        says: What will happen, in a sentence.
    """

    wish: Wish
    says: str


def steer(root: Path, storage_url: str, load: Callable[[], Study], orders: Orders) -> list[Accepted]:
    """Ask something of a study that runs or is parked.

    Args:
        root: The run directory.
        storage_url: The shared database that the user names, if the study has one.
        load: Loads the study file with its trainer; called only if settings are to be checked.
        orders: What is wanted.

    Returns:
        What will happen, in the order in which the study sees to it.

    Raises:
        UserError: With a line for each thing that cannot be done; nothing is stored then.
    """
    record = read_study(root, storage_url)
    checks = _Checks(record, load)
    _require_open(record, orders)

    for number in orders.stop:
        checks.stop(number)
    for path, values in orders.ranges.items():
        checks.set_range(path, values)
    for settings in orders.add:
        checks.add(settings)
    if orders.trials is not None:
        checks.set_trials(orders.trials)
    if orders.ends_at is not None:
        checks.set_end(orders.ends_at)

    if checks.errors:
        raise UserError("\n".join(checks.errors), 2)
    if not checks.accepted:
        raise UserError("nothing is asked: name a trial to stop or to add, a range, a number of trials, or an end", 2)

    _ask(record, [accepted.wish for accepted in checks.accepted])
    return checks.accepted


def stop_all(record: StudyRecord, now: bool) -> None:
    """Ask all processes that share a study to park.

    Args:
        record: The study.
        now: Whether trainings are not let go on to their next evaluation.

    Raises:
        UserError: If none is at work.
    """
    if not record.peers:
        shows = record.run.command("status")
        raise UserError(f"{record.name} is not running on any machine; `{shows}` shows what it has done", 2)
    _ask(record, [StopStudy(now=now)])


def _ask(record: StudyRecord, wishes: Sequence[Wish]) -> None:
    import optuna

    with (
        explain_storage_errors(record.run.root),
        storage_to_write(record.run, record.storage_url, record.spec.limits.heartbeat_s) as storage,
    ):
        search = optuna.load_study(study_name=record.spec.name, storage=storage)
        StudyAttributes(search).ask(wishes)


def _require_open(record: StudyRecord, orders: Orders) -> None:
    """Refuse what comes too late, or what the process that runs the study would not hear.

    Raises:
        UserError: Saying which.
    """
    name = record.name
    at_work = is_at_work(record)
    attributes = record.attributes
    if attributes.spec is None:
        raise UserError(f"{name} has not begun yet: change its study file, or ask again once its first trial runs", 2)
    if record.verdict is not None and not at_work:
        raise UserError(
            f"{name} is finished, so there is nothing to steer; `{record.run.command('run', '--trials', 'N')}` "
            f"searches on with more trials, and `{record.run.command('promote')}` trains its best settings for longer",
            2,
        )
    if at_work and not attributes.hears_requests:
        raise UserError(
            f"{name} is run by an earlier version of autotune, which hears no requests: "
            f"`{record.run.command('stop')}`, then `{record.run.command('run')}` goes on with this one",
            2,
        )

    is_for_search = orders.stop or orders.add or orders.ranges or orders.trials is not None
    if is_for_search and attributes.is_search_over:
        raise UserError(
            f"the search of {name} is over, so its trials and ranges are what they are; what can still be changed is "
            "its end (--until, --hours)",
            2,
        )


class _Checks:
    """Holds wishes against a study as it stands, each in view of those before it.

    Args:
        record: The study.
        load: Loads its file and trainer.
    """

    def __init__(self, record: StudyRecord, load: Callable[[], Study]) -> None:
        self.accepted: list[Accepted] = []
        self.errors: list[str] = []
        self._record = record
        self._load = load
        self._study: Study | None = None
        self._present = present_space(record.spec.space, record.attributes)
        self._whole = record.spec.space

    def stop(self, number: int) -> None:
        """Check whether a trial can be stopped."""
        trials = {trial.number: trial for trial in self._record.trials}
        trial = trials.get(number)
        if trial is None:
            known = f"its trials are 0 to {max(trials)}" if trials else "none has begun yet"
            self._refuse(f"trial {number}", f"{self._record.name} has no such trial; {known}")
        elif trial.role == "baseline":
            parks = self._record.run.command("stop")
            why = f"it has the default settings, without which nothing could be proved; `{parks}` parks the study"
            self._refuse(f"trial {number}", why)
        elif trial.status not in (TrialStatus.RUNNING, TrialStatus.WAITING):
            self._refuse(f"trial {number}", f"it has ended already ({trial.status}){_repeated(trial, trials.values())}")
        elif number in stopped_trials(self._record.attributes.requests) or self._has_asked(StopTrial(trial=number)):
            self._refuse(f"trial {number}", "that was asked before, and it ends after its next evaluation")
        else:
            says = f"trial {number} ends after its next evaluation; it is not trained again"
            if trial.status is TrialStatus.WAITING:
                says = f"trial {number} has not begun, and will not"
            self._accept(StopTrial(trial=number), says)

    def set_range(self, path: str, values: Sequence[Any]) -> None:
        """Check whether a setting can be searched in a range, or among choices."""
        about = f"range of {path}"
        sampler = self._record.spec.sampler.name
        if path not in self._present.root:
            self._refuse(about, _not_searched(path, self._present))
            return
        if sampler not in CHANGING_RANGE_SAMPLERS:
            able = ", ".join(CHANGING_RANGE_SAMPLERS)
            self._refuse(about, f'the sampler "{sampler}" cannot cope with a range that changes; {able} can')
            return

        before = self._present[path]
        try:
            dimension = changed_dimension(before, self._whole[path], values)
        except ValidationError as error:
            self._refuse(about, explain_validation_error(error.errors()[0], ("space", path)))
            return
        except UserError as error:
            self._refuse(about, str(error))
            return

        if dimension == before:
            self._refuse(about, f"{before.describe()} is what is searched already")
            return
        wider = self._with(path, dimension)
        refused = refused_proposal(wider, self._loaded.trainer, self._record.spec.base)
        if refused is not None:
            self._refuse(about, refused[1])
            return

        self._present = wider
        if dimension.choices is None:
            self._whole = self._whole.including({path: ends_or_choices(dimension)})
        wish = SetRange(
            path=path,
            values=ends_or_choices(dimension),
            before=ends_or_choices(before),
            is_range=dimension.choices is None,
        )
        self._accept(
            wish,
            f"{path} is searched in {dimension.describe()} from the next trial on (before: {before.describe()}); "
            "trials outside of that still teach",
        )

    def add(self, named: Mapping[str, Any]) -> None:
        """Check whether a trial with some settings can be trained; those that are not named are the default's."""
        about = f"trial with {_words(named)}" if named else "trial to add"
        errors = [(path, self._value_error(path, value)) for path, value in named.items()]
        for path, error in errors:
            if error:
                self._refuse(f"{about}: {path}" if len(named) > 1 else about, error)
        if not named:
            self._refuse(about, "it names no setting; name one that is searched, such as " + next(iter(self._whole)))
        if not named or any(error for _, error in errors):
            return

        base = self._record.spec.base
        values = {path: typed(self._whole[path], value) for path, value in named.items()}
        settings = self._whole.active({**self._whole.defaults(base), **values}, base)
        idle = [path for path in named if path not in settings]
        if idle:
            self._refuse(about, f"the condition (when) of {idle[0]} does not hold for the settings beside it")
            return
        refused = refusal_of(settings, self._loaded.trainer, base)
        if refused is not None:
            self._refuse(about, f"the trainer refuses it: {refused[1]}")
            return
        if (same := self._same(settings)) is not None:
            self._refuse(about, f"trial {same.number} has these settings ({same.status})")
            return

        rest = {path: value for path, value in settings.items() if path not in named}
        others = f"; its other settings are the default's ({_words(rest)})" if rest else ""
        wish = AddTrial(settings=settings, named=tuple(values))
        self._accept(wish, f"a trial with {_words(values)} is trained as soon as a device is free{others}")

    def set_trials(self, trials: int) -> None:
        """Check whether the search can have so many trials."""
        before = self._record.spec.budget.trials
        try:
            BudgetSpec(tokens=1, trials=trials)
        except ValidationError as error:
            self._refuse("trials", explain_validation_error(error.errors()[0], ("budget", "trials")))
            return
        if trials == before:
            self._refuse("trials", f"{trials} trials are what is wanted already")
            return

        counted = sum(trial.status is not TrialStatus.INTERRUPTED for trial in self._record.trials)
        says = f"the search ends after {trials} trials at most (before: {before})"
        if counted >= trials:
            says += f"; {counted} have begun or wait, so no others are proposed"
        self._accept(SetTrials(trials=trials, before=before), says)

    def set_end(self, ends_at: float) -> None:
        """Check whether everything can be done by a time."""
        seconds = ends_at - time.time()
        if seconds < REPORT_S:
            parks = self._record.run.command("stop")
            self._refuse("end", f"that is in {duration(max(0.0, seconds))}; `{parks}` parks the study at once")
            return

        says = f"everything is to be done by {time_of_day(seconds)}, in {duration(seconds)}"
        plan = self._record.attributes.plan
        if plan is not None and self._record.verdict is None and MARGIN * plan.finals_s + REPORT_S > seconds:
            takes = duration(plan.finals_s)
            says += f"; the runs on fresh seeds take about {takes}, so there may be no verdict by then"
        self._accept(SetEnd(ends_at=ends_at), says)

    @property
    def _loaded(self) -> Study:
        if self._study is None:
            self._study = self._load()
        return self._study

    def _with(self, path: str, dimension: Dimension) -> SearchSpace:
        return SearchSpace({**self._present.root, path: dimension})

    def _value_error(self, path: str, value: Any) -> str:
        if path not in self._whole.root:
            return _not_searched(path, self._whole)

        error = value_error(self._whole[path], value)
        if error and self._whole[path].choices is None:
            return f"{error}; change it, or widen that range as well (--range)"
        return error

    def _same(self, settings: Mapping[str, Any]) -> TrialRecord | None:
        """Return a trial that has, or will have, the same settings and so the same losses."""
        again = (TrialStatus.INTERRUPTED, TrialStatus.CRASHED, TrialStatus.STOPPED)
        for trial in self._record.trials:
            if trial.status not in again and dict(trial.params) == dict(settings):
                return trial
        return None

    def _has_asked(self, wish: Wish) -> bool:
        return any(accepted.wish == wish for accepted in self.accepted)

    def _accept(self, wish: Wish, says: str) -> None:
        self.accepted.append(Accepted(wish, says))

    def _refuse(self, about: str, why: str) -> None:
        self.errors.append(f"{about}: {why}")


def _repeated(trial: TrialRecord, trials: Any) -> str:
    """Return which trial repeats an interrupted one, in words; "" if none does."""
    again = [other.number for other in trials if other.retry_of == trial.number]
    return f"; its settings are those of trial {again[-1]} now" if again else ""


def _not_searched(path: str, space: SearchSpace) -> str:
    known = list(space)
    suggestion = did_you_mean(path, known)
    return f"this setting is not searched{suggestion}; name one of {', '.join(known)}"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {shown(value)}" for path, value in settings.items())
