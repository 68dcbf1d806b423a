"""What is stored with an Optuna study and with an Optuna trial: each value under one name and as one type.

`StudyAttributes(optuna_study).noise` reads a value and `StudyAttributes(optuna_study).noise = noise` stores one. The
names are part of the storage's format: a study that was begun under them goes on under them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar, overload

from pydantic import TypeAdapter

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.peers import Peer, Refusal, Stage, Terms, all_peers_in, stored_peer
from autotune.core.promotion_results import EarlyWarning, FullRunRecord, Promotion
from autotune.core.records import TrialResult, Verdict
from autotune.core.requests import Answer, Request, Wish, answered, asked, requests_in
from autotune.core.study_results import Attribution, DevicePlan, Noise, Plan, TakenAlong, TakenFrom

T = TypeVar("T")

PRIOR = "prior"
"""Role of an Optuna trial that an earlier study trained: it teaches the sampler, but is not one of the study's own."""
_PLAN_ON = "plan on "
"""A key of the storage begins with this, and ends with a class of devices."""


class _Holder(Protocol):
    """An Optuna study or trial."""

    @property
    def user_attrs(self) -> dict[str, Any]:
        """Everything that is stored with it, by name."""

    def set_user_attr(self, key: str, value: Any) -> None:
        """Store a value that JSON can hold."""


class Snapshot:
    """Attributes as they were at one moment, without a storage behind them.

    Args:
        stored: What was stored, by name.
    """

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        self.user_attrs = dict(stored or {})

    def set_user_attr(self, key: str, value: Any) -> None:
        """Change the snapshot alone."""
        self.user_attrs[key] = value


class _Attributes:
    """Typed values of one holder; two are equal if they hold the same.

    Args:
        holder: An Optuna study or trial, or a `Snapshot`.
    """

    def __init__(self, holder: _Holder) -> None:
        self.holder = holder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attributes) and self.holder.user_attrs == other.holder.user_attrs

    __hash__ = None  # type: ignore[assignment]  # it changes with what is stored

    def unreadable(self) -> str:
        """Return the name of a stored value that is not of its type, as damage leaves it; "" if all can be read."""
        for part in vars(type(self)).values():
            if isinstance(part, Stored) and not part.can_be_read(self):
                return part.name
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.holder.user_attrs!r})"


class Stored(Generic[T]):
    """One value of `StudyAttributes` or `TrialAttributes`.

    Args:
        default: What is read where nothing is stored.
        read: Makes the value from what JSON gave back.
        write: Makes what JSON can hold from the value.
        name: Its name in the storage; by default that of the attribute.
    """

    def __init__(
        self,
        default: T,
        read: Callable[[Any], T],
        write: Callable[[Any], Any] = lambda value: value,
        name: str = "",
    ) -> None:
        self._default, self._read, self._write, self.name = default, read, write, name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    @overload
    def __get__(self, attributes: None, owner: type) -> Stored[T]: ...

    @overload
    def __get__(self, attributes: _Attributes, owner: type) -> T: ...

    def __get__(self, attributes: _Attributes | None, owner: type) -> Stored[T] | T:
        if attributes is None:
            return self
        stored = attributes.holder.user_attrs.get(self.name)
        return self._default if stored is None else self._read(stored)

    def can_be_read(self, attributes: _Attributes) -> bool:
        """Return whether what is stored under its name is a value of its type."""
        try:
            value = self.__get__(attributes, type(attributes))
            if is_dataclass(value) and not isinstance(value, type):
                _adapter(type(value)).validate_python(asdict(value))
        except Exception:  # noqa: BLE001 - whatever reading raises, the content is not what was stored
            return False
        return True

    def __set__(self, attributes: _Attributes, value: T) -> None:
        attributes.holder.set_user_attr(self.name, self._write(value))


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """Return what checks the fields of a dataclass, and of those in it, against their types."""
    return TypeAdapter(kind)


def _ranges(stored: Mapping[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    return {path: tuple(ends) for path, ends in stored.items()}


def _curve(stored: Mapping[str, float]) -> dict[int, float]:
    # JSON knows no numbers as keys.
    return {int(tokens): loss for tokens, loss in stored.items()}


def _warnings(stored: list[dict[str, Any]]) -> tuple[EarlyWarning, ...]:
    return tuple(EarlyWarning(**warning) for warning in stored)


def _taken_along(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, TakenAlong]:
    return {folder: TakenAlong.from_json(taken) for folder, taken in stored.items()}


def _taken_along_to_json(taken: Mapping[str, TakenAlong]) -> dict[str, Any]:
    return {folder: each.to_json() for folder, each in taken.items()}


class StudyAttributes(_Attributes):
    """What is stored with the Optuna study of a search."""

    spec: Stored[Mapping[str, Any] | None] = Stored(None, dict)
    """The study file's content as it was begun."""

    created_at = Stored("", str)
    """When it was begun, ISO 8601."""

    metric: Stored[Metric] = Stored(TEXT_LOSS, Metric.from_json, Metric.to_json)
    """What the trainer reports."""

    ranges: Stored[Mapping[str, tuple[Any, ...]]] = Stored({}, _ranges)
    """Ranges that were widened, or the choices that fit into memory: [low, high] or all choices, by dotted path."""

    probe_facts: Stored[Mapping[str, Any]] = Stored({}, dict)
    """What the trainer returned for the first probe of the baseline."""

    length_rules: Stored[Mapping[str, str] | None] = Stored(None, dict)
    """What depends on the length of a run, by dotted path, as the trainer says; None in studies that kept none."""

    cost_model: Stored[Mapping[str, Any] | None] = Stored(None, dict)
    """Fields of the `CostModel` that probes were fitted to; None if the trainer counts nothing."""

    provenance: Stored[Mapping[str, Any]] = Stored({}, dict)
    """Where the numbers come from: hash of the study file, commit, hash of the data, GPU, versions."""

    plan: Stored[Plan | None] = Stored(None, Plan.from_json, Plan.to_json)
    """What the night was expected to look like; stored last of what precedes the first trial."""

    run_tokens = Stored(0, int)
    """Length of a full run that takes what the search left of the night, set when it begins; 0 before."""

    worked_s = Stored(0.0, float)
    """Seconds for which it was run in sessions that end (`--session-hours`), which its hours count together."""

    warm_start: Stored[tuple[str, ...]] = Stored((), tuple)
    """Names of the earlier studies that the sampler has been taught from."""

    taken_along: Stored[Mapping[str, TakenAlong]] = Stored({}, _taken_along, _taken_along_to_json)
    """What was taken along from earlier studies, by their run directory as the study file names it."""

    speeds: Stored[Mapping[str, float]] = Stored({}, dict)
    """Tokens per second of each configuration as a multiple of the baseline's, by a hash of what decides it."""

    search_ended: Stored[bool | None] = Stored(None, bool)
    """Whether the search is over; None in studies that kept no word of it."""

    hears_requests = Stored(False, bool)
    """Whether the version of autotune that runs the study takes up what is asked of it meanwhile."""

    exhausted = Stored(False, bool)
    """Whether the sampler has proposed every combination there is."""

    noise: Stored[Noise | None] = Stored(None, lambda stored: Noise(**stored), Noise.to_json)
    """What was measured of the noise between seeds."""

    verdict: Stored[Verdict | None] = Stored(None, Verdict.from_json, Verdict.to_json)
    """What the finals prove."""

    attribution: Stored[Attribution | None] = Stored(None, Attribution.from_json, Attribution.to_json)
    """Which change gave what."""

    why_no_attribution = Stored("", str)
    """Why there is no attribution though it was asked for, half a sentence; "" if nothing prevented it."""

    promotion: Stored[Promotion | None] = Stored(None, Promotion.from_json, Promotion.to_json)
    """How the settings are changed for the latest full run."""

    full_run: Stored[FullRunRecord | None] = Stored(
        None,
        FullRunRecord.from_json,
        FullRunRecord.to_json,
        name="full",
    )
    """The latest full run."""

    terms: Stored[Terms | None] = Stored(None, Terms.from_json, Terms.to_json)
    """Of a shared study: the limits and the end that hold for all of its processes."""

    stage: Stored[Stage] = Stored(Stage.NONE, Stage, int)
    """Of a shared study: how far its night is."""

    checked: Stored[tuple[int, int] | None] = Stored(None, lambda stored: (stored[0], stored[1]))
    """Of a shared study: the trial whose settings shorter runs fit to a full run, and the tokens of that run."""

    coordinator = Stored("", str)
    """Of a shared study: the id of the peer that coordinated it last."""

    planned_on = Stored("", str)
    """Of a study on devices of several classes: that on which the plan, the cost model and the ranges were measured."""

    judged_on = Stored("", str)
    """Of a study on devices of several classes: that on which all fresh seeds are trained; "" for the first one."""

    ended_at = Stored("", str)
    """Of a shared study: when its last night came to its end, ISO 8601."""

    refusal: Stored[Refusal | None] = Stored(None, Refusal.from_json, lambda refusal: refusal and asdict(refusal))
    """Of a shared study: why its coordinator could not plan the present night; None if that was not so."""

    def at_present(self) -> StudyAttributes:
        """Return what is stored at this moment; of a study in a database, each value is a question of its own."""
        return StudyAttributes(Snapshot(self.holder.user_attrs))

    def keep_peer(self, peer: Peer) -> None:
        """Store who works on the study, and what it is at."""
        self.holder.set_user_attr(*stored_peer(peer))

    @property
    def all_peers(self) -> dict[str, Peer]:
        """All processes that have ever worked on the study, by their id."""
        return all_peers_in(self.holder.user_attrs)

    def plan_on(self, device_class: str) -> DevicePlan | None:
        """Return what was planned for devices of a class, where the study's plan was made on another.

        Args:
            device_class: The class, as `Setup.device_class` names it.
        """
        stored = self.holder.user_attrs.get(f"{_PLAN_ON}{device_class}")
        return None if stored is None else DevicePlan.from_json(stored)

    def keep_plan_on(self, device_class: str, plan: DevicePlan) -> None:
        """Store what is planned for devices of a class, beside the study's plan."""
        self.holder.set_user_attr(f"{_PLAN_ON}{device_class}", plan.to_json())

    @property
    def requests(self) -> tuple[Request, ...]:
        """All that a person asked of the study as it ran, in that order."""
        return requests_in(self.holder.user_attrs)

    def ask(self, wishes: Sequence[Wish]) -> None:
        """Store what a person asks: all of it, or nothing."""
        self.holder.set_user_attr(*asked(wishes))

    def answer(self, request: Request, answer: Answer) -> None:
        """Store what became of a wish."""
        self.holder.set_user_attr(*answered(request, answer))

    @property
    def is_search_over(self) -> bool:
        """Whether the search has come to its end."""
        return self.verdict is not None if self.search_ended is None else self.search_ended

    def unreadable(self) -> str:
        """Return the name of a stored value that is not of its type; "" if all can be read."""
        try:
            _ = self.requests
        except ValueError:
            return "asked"
        try:
            _ = self.all_peers
        except TypeError:
            return "peer"
        return super().unreadable()


class TrialAttributes(_Attributes):
    """What is stored with an Optuna trial, of the search or of the trainings that follow it."""

    role = Stored("search", str)
    """ "baseline", "search", "final", "bracket", "full" or `PRIOR`."""

    arm: Stored[int | None] = Stored(None, int)
    """Search trial whose settings are trained again; None in the search."""

    stage = Stored("", str)
    """In the finals "select", "prove" or "attribute"."""

    seed = Stored(0, int)
    """Seed that it trains with, the first of several; 0 if none was chosen yet."""

    params: Stored[Mapping[str, Any]] = Stored({}, dict)
    """Settings by dotted path, where Optuna's own are not used: in the finals and longer runs."""

    result: Stored[TrialResult | None] = Stored(None, TrialResult.from_json, TrialResult.to_json)
    """How it ended."""

    budget_tokens: Stored[int | None] = Stored(None, int)
    """Its own token budget; None where all have the study's."""

    passed_over = Stored(False, bool)
    """Whether it was ended before it trained anything, since its settings had been tried; it counts as no trial."""

    curve: Stored[Mapping[int, float]] = Stored({}, _curve, lambda curve: {str(at): loss for at, loss in curve.items()})
    """Losses by tokens where Optuna keeps none: in a study of several values, and beyond the steps of a PostgreSQL."""

    audited_at: Stored[int | None] = Stored(None, int)
    """Of a trial that runs on as an audit: the tokens at which the pruner would have stopped it."""

    stopped_at: Stored[int | None] = Stored(None, int)
    """Of a trial that the pruner, or a person, did stop, unlike one that diverged: the tokens at which it was."""

    peer = Stored("", str)
    """In a shared study: the id of the peer that trains it."""

    needs_bytes = Stored(0, int)
    """Of settings that ran out of memory on a device: what that has; only one that has more may train them."""

    request = Stored("", str)
    """Of a trial that a person added: the id of that request."""

    taken_from: Stored[TakenFrom | None] = Stored(None, TakenFrom.from_json, TakenFrom.to_json)
    """Of a trial that an earlier study trained and that counts here: which one it was."""

    end_tokens: Stored[int | None] = Stored(None, int)
    """Of a full run that must end early: the tokens at which it does."""

    early_warnings: Stored[tuple[EarlyWarning, ...]] = Stored(
        (), _warnings, lambda warnings: [warning.to_json() for warning in warnings]
    )
    """Of a full run: what looked wrong as it trained."""
