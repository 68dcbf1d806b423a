"""The processes that share a study: who they are, what holds for all of them, and how far their night is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Any

from autotune.core.setups import Setup

AWAITS = "waiting for a process that coordinates"
"""What a process is at that was started to train alone, where nobody plans what."""
_PEER = "peer "
"""A key of the storage begins with this, and ends with the id of a peer."""


class Stage(IntEnum):
    """How far the night of a shared study is, by the word of its coordinator; the next one begins anew."""

    NONE = 0
    """No night is under way."""
    PLAN = 1
    SEARCH = 2
    FINALS = 3
    ATTRIBUTION = 4
    """The verdict is stored."""
    PROMOTION = 5
    FULL_RUN = 6
    """What its settings follow from is trained."""


@dataclass(frozen=True)
class Terms:
    """What belongs to a shared study, and not to each of its processes: whoever begins its night sets it.

    Args:
        limits: The table `limits` of the study file.
        begun_at: When its night began, seconds since 1970 by the clock of the database.
        ends_at: When everything must be done, by the same clock; None for no deadline.
        words: What that end was made from: hours and time of day.
        setup: What the study was begun with: card, dtype, versions, code and text; None in studies that kept none.
        is_mixed: Whether processes with another setup may take part.
        trials: Trials that are searched, unless a person sets another number meanwhile; 0 in studies that kept none.
    """

    limits: Mapping[str, Any]
    begun_at: float
    ends_at: float | None
    words: str
    setup: Setup | None = None
    is_mixed: bool = False
    trials: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Terms:
        """Read what `to_json` wrote."""
        setup = raw.get("setup")
        return cls(**{**raw, "setup": None if setup is None else Setup.from_json(setup)})


@dataclass(frozen=True)
class Refusal:
    """Why a coordinator could not plan a study.

    Args:
        words: What is wrong and what to do.
        exit_code: That of the process.
        device: What it would have trained on; processes on the same would only find the same.
    """

    words: str
    exit_code: int
    device: str

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Refusal:
        """Read what `dataclasses.asdict` made of it."""
        return cls(**raw)


@dataclass(frozen=True)
class Peer:
    """A process that works on a shared study.

    Args:
        id: Its name, 8 random hexadecimal digits: process numbers and host names repeat themselves in containers.
        host: Name of its machine.
        device: Name of what it trains on.
        since: When it began, ISO 8601.
        is_worker: Whether it was started to train alone, and never coordinates.
        doing: What it is at, if it does not train; "" if it does.
        waits: Whether it has no part in a night: none is under way, its own is over, or it only promotes.
        device_class: Name of what trains alike, as `Setup.device_class` gives it; "" if that is not known.
        memory_bytes: What a training may use there; 0 if that is not known.
        coordinates: Whether it plans, concludes and promotes for all; the database knows, and it is not stored.
    """

    id: str
    host: str
    device: str
    since: str
    is_worker: bool = False
    doing: str = ""
    waits: bool = False
    device_class: str = ""
    memory_bytes: int = 0
    coordinates: bool = False

    @property
    def role(self) -> str:
        """Its part, in a word."""
        return "coordinator" if self.coordinates else "worker"


def lack_coordinator(peers: Sequence[Peer]) -> bool:
    """Return whether none of the processes that work on a study will ever coordinate it.

    Args:
        peers: All of them.
    """
    return bool(peers) and all(peer.is_worker for peer in peers)


def stored_peer(peer: Peer) -> tuple[str, dict[str, Any]]:
    """Return what stores a peer: the name of an attribute of the Optuna study, and its value."""
    fields = asdict(peer)
    del fields["id"], fields["coordinates"]
    return f"{_PEER}{peer.id}", fields


def all_peers(stored: Mapping[str, Any]) -> tuple[Peer, ...]:
    """Return all peers that ever worked on a study.

    Args:
        stored: The attributes of the Optuna study, by name.
    """
    return tuple(Peer(id=key.removeprefix(_PEER), **stored[key]) for key in sorted(stored) if key.startswith(_PEER))


def peers_in(stored: Mapping[str, Any], living: Mapping[str, bool | None]) -> tuple[Peer, ...]:
    """Return the peers that live, the coordinator first, then by when they began.

    Args:
        stored: The attributes of the Optuna study, by name.
        living: Whether each living peer coordinates, by its id; those that say nothing of themselves yet are left out.
    """
    known = all_peers_in(stored)
    peers = [replace(known[id_], coordinates=bool(living[id_])) for id_ in living if id_ in known]
    return tuple(sorted(peers, key=lambda peer: (not peer.coordinates, peer.since, peer.id)))


def all_peers_in(stored: Mapping[str, Any]) -> dict[str, Peer]:
    """Return all processes that have ever worked on a study, by their id.

    Args:
        stored: The attributes of the Optuna study, by name.
    """
    names = [name for name in stored if name.startswith(_PEER)]
    return {name.removeprefix(_PEER): Peer(id=name.removeprefix(_PEER), **stored[name]) for name in names}
