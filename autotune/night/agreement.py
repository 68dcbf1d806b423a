"""One study, one end: the limits and the deadline of a shared study, which later processes take from the first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.core.errors import UserError
from autotune.core.peers import AWAITS, Peer, Stage, Terms, peers_in
from autotune.core.requests import study_stops
from autotune.core.text import duration, shown, time_of_day
from autotune.engine.deadline import Deadline
from autotune.engine.session_end import SessionEnd
from autotune.store.absence import again_if_cut_off
from autotune.store.database import beat_every, exclusive
from autotune.study.spec import LimitsSpec

if TYPE_CHECKING:
    from autotune.night.night import StoredSearch


WAITS_FOR_COORDINATOR = (
    "no process coordinates this study, and a worker only trains what one of them queues: it waits until one is "
    "started, on any machine, by the same command without --worker"
)
_SAME_FRAC = 0.05
"""Two ends that differ by less than this share of the time left are one, said in two ways."""
_WAIT_S = 1.0
"""Seconds between two looks for a night that is under way."""


@dataclass(frozen=True)
class Agreement:
    """What holds for a process of a study.

    Args:
        search: The search, with the limits of all.
        joined: Whether other processes were at work on the study's night when this one came.
        elapsed_s: Seconds since that night began.
        ended_at: When the study had last come to its end by then.
        notes: What of this process's own command line and file does not count, a sentence each.
    """

    search: StoredSearch
    joined: bool = False
    elapsed_s: float = 0.0
    ended_at: str = ""
    notes: tuple[str, ...] = ()


def agree(
    search: StoredSearch,
    peer: Peer,
    deadline: Deadline,
    session: SessionEnd,
    heed_stop: Callable[[], None],
    say: Callable[[str], None],
) -> Agreement:
    """Let limits and deadline be those of the study's night, if one is under way; else begin one with this process's.

    An end of its own that comes sooner is when this process leaves, and an end that comes later does not count. What is
    started to train alone begins no night: it waits for one.

    Args:
        search: The search in its storage.
        peer: This process.
        deadline: Of this process; it is moved to that of the study.
        session: When this process ends; it is told when to leave.
        heed_stop: Raises if the user wants this process to end; called now and then while it waits.
        say: Takes a sentence for a person, once where it waits.

    Raises:
        UserError: With exit code 130 if the study is stopped while it waits.
    """
    if not search.membership.is_shared:
        return Agreement(search)

    is_said = False
    while (agreed := _agreed(search, peer, deadline, session)) is None:
        if not is_said:
            search.attributes.keep_peer(replace(peer, doing=AWAITS, waits=True))
            say(WAITS_FOR_COORDINATOR)
            is_said = True
        heed_stop()
        if study_stops(search.attributes.requests).keys() - search.stops_before:
            raise UserError("the study was stopped while this process waited for it to begin", 130)
        time.sleep(_WAIT_S)
    return agreed


@again_if_cut_off
def _agreed(search: StoredSearch, peer: Peer, deadline: Deadline, session: SessionEnd) -> Agreement | None:
    """Return what holds; None for a process that begins no night and finds none."""
    membership, attributes = search.membership, search.attributes
    limits = search.study.spec.limits

    with exclusive(search.storage, search.study.spec.name):
        now, before, stage = membership.clock(), attributes.terms, attributes.stage
        # Those that are still coming, as this one is, have said nothing of themselves yet.
        others = peers_in(attributes.holder.user_attrs, dict.fromkeys(membership.others()))
        joined = before is not None and any(not other.waits for other in others)
        if peer.is_worker and not joined:
            return None

        if before is not None and joined:
            terms = before
        else:
            attributes.terms = terms = _begun_anew(before, stage, deadline, limits, now)
        ended_at = attributes.ended_at
        attributes.keep_peer(peer)

    of_all = LimitsSpec.model_validate(terms.limits)
    notes = [*_notes_on_limits(limits, of_all), *_heed_end(terms, deadline, session, now)]
    spec = search.study.spec.model_copy(update={"limits": of_all})
    if of_all != limits:
        attributes.spec = spec.to_store()
    membership.beat_every(of_all.heartbeat_s)
    beat_every(search.storage, of_all.heartbeat_s)

    return Agreement(
        search=replace(search, study=replace(search.study, spec=spec)),
        joined=joined,
        elapsed_s=now - terms.begun_at,
        ended_at=ended_at,
        notes=tuple(notes),
    )


def _begun_anew(before: Terms | None, stage: Stage, deadline: Deadline, limits: LimitsSpec, now: float) -> Terms:
    """Return the terms of a process that nobody else is beside.

    The same command again, after all processes were killed or parked, goes on with their night and has no longer.
    """
    kept: dict[str, Any] = limits.model_dump(mode="json")
    is_under_way = before is not None and stage is not Stage.NONE
    if is_under_way and before is not None and before.words == deadline.words and (before.ends_at or 0) > now:
        return replace(before, limits=kept)

    seconds_left = deadline.seconds_left
    return Terms(kept, now, None if math.isinf(seconds_left) else now + seconds_left, deadline.words)


def _heed_end(terms: Terms, deadline: Deadline, session: SessionEnd, now: float) -> list[str]:
    """Move a deadline to that of all, and return what this process does if its own is another."""
    own_s = deadline.seconds_left
    seconds_left = math.inf if terms.ends_at is None else terms.ends_at - now
    deadline.move_to(seconds_left)
    session.bound(deadline)
    is_same = deadline.words == terms.words or abs(own_s - seconds_left) < _SAME_FRAC * seconds_left
    if is_same or math.isinf(own_s):
        return []

    end = "it has no deadline"
    if terms.ends_at is not None:
        end = f"it is to be done by {time_of_day(seconds_left)}"
    if own_s < seconds_left:
        session.leave_within(own_s)
        return [f"the study was begun by another process, and {end}: this one leaves it in {duration(own_s)}"]
    return [f"the study was begun by another process, and {end}: `autotune steer --hours` moves that, and not --hours"]


def _notes_on_limits(own: LimitsSpec, of_all: LimitsSpec) -> list[str]:
    different = [name for name in LimitsSpec.model_fields if getattr(own, name) != getattr(of_all, name)]
    if not different:
        return []
    said = ", ".join(
        f"{name} = {shown(getattr(of_all, name))} (here {shown(getattr(own, name))})" for name in different
    )
    return [f"the limits are those that the study was begun with: {said}"]


def keep_end(search: StoredSearch, deadline: Deadline) -> None:
    """Store a deadline that was moved, for processes that join later.

    Args:
        search: The search in its storage.
        deadline: As it was moved.
    """
    terms = search.attributes.terms
    if terms is not None:
        ends_at = search.membership.clock() + deadline.seconds_left
        search.attributes.terms = replace(terms, ends_at=ends_at)
