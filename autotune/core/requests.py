"""What a person asks of a study as it runs: records that are appended to the study, and the study's answers to them.

A command stores its wishes as one attribute of the Optuna study, under a name that nobody else uses, and the process
that runs the study answers each of them once, under another. Nothing that one of them wrote is ever written again by
the other, so that no lock is needed between the two, and all that was asked is the study's history.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from autotune.core.files import now_iso
from autotune.core.text import time_of_day

_ASKED = "asked "
"""A key of the storage begins with this, and ends with the id of what was asked."""
_ANSWERED = "answered "
_DAY_S = 20 * 3600.0
"""A moment this many seconds after the study began is told with its day."""

Plain = bool | int | float | str


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StopTrial(_Record):
    """End one trial after its next evaluation.

    Args:
        trial: Its number.
    """

    kind: Literal["stop trial"] = "stop trial"
    trial: int

    def wanted(self, at: str) -> str:
        """Return what is asked, after "asked to"."""
        return f"stop trial {self.trial}"

    def done(self, at: str, answer: Answer) -> str:
        """Return what was done, after "you"."""
        return f"stopped trial {self.trial}"


class AddTrial(_Record):
    """Train one more trial, with settings that a person chose.

    Args:
        settings: All that are searched, by dotted path.
        named: Those of them that the person named; the others have their default.
    """

    kind: Literal["add trial"] = "add trial"
    settings: Mapping[str, Plain]
    named: tuple[str, ...] = ()

    def wanted(self, at: str) -> str:
        """Return what is asked, after "asked to"."""
        return f"add a trial with {self._words}"

    def done(self, at: str, answer: Answer) -> str:
        """Return what was done, after "you"."""
        return f"added trial {answer.trial} with {self._words}"

    @property
    def _words(self) -> str:
        return ", ".join(f"{path} = {_shown(self.settings[path])}" for path in self.named or self.settings)


class SetRange(_Record):
    """Search a setting in another range, or among fewer choices.

    Args:
        path: The setting.
        values: [low, high], or the choices.
        before: What was searched until then.
        is_range: Whether the two values are ends.
    """

    kind: Literal["range"] = "range"
    path: str
    values: tuple[Plain, ...]
    before: tuple[Plain, ...]
    is_range: bool

    def wanted(self, at: str) -> str:
        """Return what is asked, after "asked to"."""
        return f"search {self.path} in {self._words(self.values)}"

    def done(self, at: str, answer: Answer) -> str:
        """Return what was done, after "you"."""
        return f"{self._verb} {self.path} to {self._words(self.values)} (before: {self._words(self.before)})"

    @property
    def _verb(self) -> str:
        """The change in a word."""
        if not self.is_range:
            is_less, is_more = set(self.values) < set(self.before), set(self.values) > set(self.before)
        else:
            (low, high), (low_before, high_before) = self.values, self.before
            is_less = low >= low_before and high <= high_before  # type: ignore[operator]  # ends are numbers
            is_more = low <= low_before and high >= high_before  # type: ignore[operator]
        return "narrowed" if is_less else "widened" if is_more else "moved"

    def _words(self, values: Sequence[Plain]) -> str:
        return (" to " if self.is_range else ", ").join(map(_shown, values))


class SetTrials(_Record):
    """Search more trials or fewer.

    Args:
        trials: How many at most, the default included.
        before: How many it were.
    """

    kind: Literal["trials"] = "trials"
    trials: int
    before: int

    def wanted(self, at: str) -> str:
        """Return what is asked, after "asked to"."""
        return f"search {self.trials} trials at most"

    def done(self, at: str, answer: Answer) -> str:
        """Return what was done, after "you"."""
        verb = "raised" if self.trials > self.before else "lowered"
        return f"{verb} the number of trials from {self.before} to {self.trials}"


class SetEnd(_Record):
    """Have everything done by another time.

    Args:
        ends_at: That time, seconds since 1970.
    """

    kind: Literal["end"] = "end"
    ends_at: float

    def wanted(self, at: str) -> str:
        """Return what is asked, after "asked to"."""
        return f"move the end to {self._words(at)}"

    def done(self, at: str, answer: Answer) -> str:
        """Return what was done, after "you"."""
        return f"moved the end to {self._words(at)}"

    def _words(self, at: str) -> str:
        asked_at = datetime.fromisoformat(at).astimezone().replace(tzinfo=None)
        return time_of_day(self.ends_at - asked_at.timestamp(), asked_at)


class StopStudy(_Record):
    """Park every process that works on the study: of a study that machines share.

    Args:
        now: Whether trainings are not let go on to their next evaluation.
    """

    kind: Literal["stop"] = "stop"
    now: bool = False

    def wanted(self, at: str) -> str:
        """Return what is asked, after "asked to"."""
        return "stop the study at once" if self.now else "stop the study"

    def done(self, at: str, answer: Answer) -> str:
        """Return what was done, after "you"."""
        return "stopped the study at once" if self.now else "stopped the study"


Wish = Annotated[StopTrial | AddTrial | SetRange | SetTrials | SetEnd | StopStudy, Field(discriminator="kind")]


class Answer(_Record):
    """What became of a wish.

    Args:
        at: When that was decided, ISO 8601.
        why: Why it could not be done, after "but"; "" if it was.
        trial: The trial that was added.
        instead_of: What the run had been started with, in words: the end, or the number of trials.
    """

    at: str = Field(default_factory=now_iso)
    why: str = ""
    trial: int | None = None
    instead_of: str = ""


class Request(_Record):
    """One wish, as it is stored.

    Args:
        id: Names it; ids sort in the order in which the wishes came.
        at: When it was asked, ISO 8601.
        wish: What is asked.
        answer: What became of it; None as long as the study has not taken it up.
    """

    id: str
    at: str
    wish: Wish
    answer: Answer | None = None

    @property
    def is_done(self) -> bool:
        """Whether the study took it up and did it."""
        return self.answer is not None and not self.answer.why

    @property
    def is_refused(self) -> bool:
        """Whether the study took it up and could not do it."""
        return self.answer is not None and bool(self.answer.why)

    def sentence(self, began: str = "") -> str:
        """Return it in a sentence for a person: "At 23:10 you stopped trial 12."

        Args:
            began: When the study began, ISO 8601; a moment that is far from it is told with its day.
        """
        when = _moment(self.at, began)
        if self.answer is None:
            return f"{when} you asked to {self.wish.wanted(self.at)}; the study has not taken that up yet."
        if self.answer.why:
            return f"{when} you asked to {self.wish.wanted(self.at)}, but {self.answer.why}."
        return f"{when} you {self.wish.done(self.at, self.answer)}."


class _Asked(_Record):
    """What one command asks: all of it is stored, or nothing."""

    at: str
    wishes: tuple[Wish, ...]


_ASKED_TYPE = TypeAdapter(_Asked)


def asked(wishes: Sequence[Wish]) -> tuple[str, dict[str, Any]]:
    """Return what stores wishes: the name of an attribute, and its value.

    Args:
        wishes: In their order.
    """
    name = f"{_ASKED}{time.time_ns():020d}-{secrets.token_hex(4)}"
    return name, _Asked(at=now_iso(), wishes=tuple(wishes)).model_dump(mode="json")


def answered(request: Request, answer: Answer) -> tuple[str, dict[str, Any]]:
    """Return what stores an answer: the name of an attribute, and its value."""
    return f"{_ANSWERED}{request.id}", answer.model_dump(mode="json")


def requests_in(stored: Mapping[str, Any]) -> tuple[Request, ...]:
    """Return all that was asked of a study, in the order in which it was.

    Args:
        stored: The study's attributes, by name.

    Raises:
        pydantic.ValidationError: If one of them is damaged.
    """
    requests = []
    for name in sorted(name for name in stored if name.startswith(_ASKED)):
        once = _ASKED_TYPE.validate_python(stored[name])
        for place, wish in enumerate(once.wishes):
            id_ = f"{name.removeprefix(_ASKED)}.{place:04d}"
            answer = stored.get(f"{_ANSWERED}{id_}")
            known = None if answer is None else Answer.model_validate(answer)
            requests.append(Request(id=id_, at=once.at, wish=wish, answer=known))
    return tuple(requests)


# --- what counts at present ------------------------------------------------------------------------------


def stopped_trials(requests: Iterable[Request]) -> frozenset[int]:
    """Return the numbers of the trials that a person does not want to go on, or to be repeated."""
    wishes = [request.wish for request in requests if not request.is_refused]
    return frozenset(wish.trial for wish in wishes if isinstance(wish, StopTrial))


def study_stops(requests: Iterable[Request]) -> dict[str, StopStudy]:
    """Return how often, and how, a person has stopped a shared study, by the ids of the requests."""
    return {request.id: request.wish for request in requests if isinstance(request.wish, StopStudy)}


def ranges_set(requests: Iterable[Request]) -> list[SetRange]:
    """Return the ranges that a person has set, in the order in which the study took them up."""
    return [request.wish for request in requests if request.is_done and isinstance(request.wish, SetRange)]


def trials_wanted(trials: int, requests: Iterable[Request]) -> int:
    """Return how many trials are searched: what a person set last.

    Args:
        trials: What the study was started with; a start with another number is a later word than an earlier request.
        requests: All that was asked.
    """
    for request in reversed(list(requests)):
        answer = request.answer
        if request.is_done and isinstance(request.wish, SetTrials) and answer and answer.instead_of == str(trials):
            return request.wish.trials
    return trials


def _shown(value: Plain) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _moment(at: str, began: str) -> str:
    """Return when something was, at the begin of a sentence."""
    then = datetime.fromisoformat(at).astimezone()
    if began and (then - datetime.fromisoformat(began).astimezone()).total_seconds() > _DAY_S:
        return f"On {then:%a %d %b} at {then:%H:%M}"
    return f"At {then:%H:%M}"
