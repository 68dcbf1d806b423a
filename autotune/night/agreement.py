"""One study, one end: what later processes of a shared study take from the first, and what they must have alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.peers import AWAITS, Peer, Stage, Terms, peers_in
from autotune.core.requests import study_stops
from autotune.core.setups import Setup
from autotune.core.text import duration, shown, time_of_day
from autotune.engine.deadline import Deadline
from autotune.engine.session_end import SessionEnd
from autotune.store.absence import again_if_cut_off
from autotune.store.database import beat_every, exclusive
from autotune.study.spec import LimitsSpec, StudySpec

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
        peer: This process, with the class of its device.
        joined: Whether other processes were at work on the study's night when this one came.
        elapsed_s: Seconds since that night began.
        ended_at: When the study had last come to its end by then.
        notes: What of this process's own command line and file does not count, a sentence each.
    """

    search: StoredSearch
    peer: Peer
    joined: bool = False
    elapsed_s: float = 0.0
    ended_at: str = ""
    notes: tuple[str, ...] = ()


def agree(
    search: StoredSearch,
    peer: Peer,
    setup: Setup,
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
        setup: What it trains with.
        deadline: Of this process; it is moved to that of the study.
        session: When this process ends; it is told when to leave.
        heed_stop: Raises if the user wants this process to end; called now and then while it waits.
        say: Takes a sentence for a person, once where it waits.

    Raises:
        UserError: With exit code 3 if it trains with something else than the study, which is not mixed; with exit code
            130 if the study is stopped while it waits.
    """
    is_said = False
    while (agreed := _agreed(search, peer, setup, deadline, session)) is None:
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
def _agreed(
    search: StoredSearch, peer: Peer, setup: Setup, deadline: Deadline, session: SessionEnd
) -> Agreement | None:
    """Return what holds; None for a process that begins no night and finds none."""
    membership, attributes, spec = search.membership, search.attributes, search.study.spec

    with exclusive(search.storage, spec.name):
        now, before, stage = membership.clock(), attributes.terms, attributes.stage
        # Those that are still coming, as this one is, have said nothing of themselves yet.
        others = peers_in(attributes.holder.user_attrs, dict.fromkeys(membership.others()))
        joined = before is not None and any(not other.waits for other in others)
        if peer.is_worker and not joined:
            return None

        terms = before
        if terms is None or not joined:
            terms = _begun_anew(before, stage, deadline, spec, now)
        # What nothing was measured with yet binds nobody.
        if terms.setup is None or (not joined and attributes.plan is None):
            terms = replace(terms, setup=setup)
        assert terms.setup is not None, "it was just set"
        differences = setup.differences(terms.setup)
        _require_alike(spec.name, setup, terms, differences)
        if terms != before:
            attributes.terms = terms
        ended_at = attributes.ended_at
        peer = replace(peer, device_class=setup.device_class(terms.setup))
        attributes.keep_peer(peer)

    of_all = LimitsSpec.model_validate(terms.limits)
    budget = spec.budget.model_copy(update={"trials": terms.trials or spec.budget.trials})
    spec_of_all = spec.model_copy(update={"limits": of_all, "mixed": terms.is_mixed, "budget": budget})
    notes = [*_notes_on_terms(spec, spec_of_all), *_heed_end(terms, deadline, session, now), *differences]
    if spec_of_all != spec:
        attributes.spec = spec_of_all.to_store()
    membership.beat_every(of_all.heartbeat_s)
    beat_every(search.storage, of_all.heartbeat_s)

    return Agreement(
        search=replace(search, study=replace(search.study, spec=spec_of_all)),
        peer=peer,
        joined=joined,
        elapsed_s=now - terms.begun_at,
        ended_at=ended_at,
        notes=tuple(notes),
    )


def peer_with(peer: Peer, setup: Setup, attributes: StudyAttributes) -> Peer:
    """Return a process that takes part in no night with the class of its device: nobody joins a night by it.

    Args:
        peer: The process.
        setup: What it trains with.
        attributes: What is stored with the study.
    """
    terms = attributes.terms
    of_study = terms.setup if terms is not None and terms.setup is not None else setup
    return replace(peer, device_class=setup.device_class(of_study), waits=True)


def _require_alike(name: str, setup: Setup, terms: Terms, differences: Sequence[str]) -> None:
    """Refuse a process that trains with something else than the study, unless that is mixed.

    Raises:
        UserError: With exit code 3, naming each difference.
    """
    assert terms.setup is not None, "it is compared with something"
    has_other_text = bool(setup.text and terms.setup.text) and setup.text != terms.setup.text
    if not differences or (terms.is_mixed and not has_other_text):
        return

    if has_other_text:
        what = "put the same text here: losses on different texts cannot be ranked together, also with mixed = true"
    else:
        what = (
            "use the same here or, to have such machines in one study all the same, stop it on all of them "
            "(`autotune stop`) and begin its night anew with mixed = true in the study file; the search is noisier then"
        )
    said = "".join(f"\n  {difference}" for difference in differences)
    raise UserError(f"{name} is trained with something else, so its losses and those of here differ:{said}\n{what}", 3)


def _begun_anew(before: Terms | None, stage: Stage, deadline: Deadline, spec: StudySpec, now: float) -> Terms:
    """Return the terms of a process that nobody else is beside.

    The same command again, after all processes were killed or parked, goes on with their night and has no longer.
    """
    kept: dict[str, Any] = spec.limits.model_dump(mode="json")
    is_under_way = before is not None and stage is not Stage.NONE
    if is_under_way and before is not None and before.words == deadline.words and (before.ends_at or 0) > now:
        return replace(before, limits=kept, is_mixed=spec.mixed, trials=spec.budget.trials)

    seconds_left = deadline.seconds_left
    ends_at = None if math.isinf(seconds_left) else now + seconds_left
    setup = None if before is None else before.setup
    return Terms(kept, now, ends_at, deadline.words, setup, spec.mixed, spec.budget.trials)


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


def _notes_on_terms(own_spec: StudySpec, spec_of_all: StudySpec) -> list[str]:
    own, of_all = own_spec.limits, spec_of_all.limits
    different = [
        f"{name} = {shown(getattr(of_all, name))} (here {shown(getattr(own, name))})"
        for name in LimitsSpec.model_fields
        if getattr(own, name) != getattr(of_all, name)
    ]
    notes = []
    if different:
        notes.append(f"the limits are those that the study was begun with: {', '.join(different)}")
    if own_spec.mixed != spec_of_all.mixed:
        words = [str(spec.mixed).lower() for spec in (spec_of_all, own_spec)]
        notes.append(f"the study was begun with mixed = {words[0]} (here {words[1]})")
    if own_spec.budget.trials != spec_of_all.budget.trials:
        trials = spec_of_all.budget.trials
        notes.append(
            f"the study was begun with {trials} trials (here {own_spec.budget.trials}): `autotune steer --trials` "
            "changes that"
        )
    return notes


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
