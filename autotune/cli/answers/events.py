"""What `autotune watch --json` says: one event on each line, told apart by `event`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from autotune.cli.answers.base import Answer
from autotune.cli.answers.studies import MetricFields, PeerAtWork, State

PhaseName = Literal[
    "preparing", "profiling", "planning", "search", "finals", "attribution", "promotion", "full run", "ended"
]


class Event(Answer):
    """Something that happened to a study, or a sign of life."""

    schema_name: Literal["autotune.event/1"] = "autotune.event/1"

    at: float
    """When it happened, seconds since 1970. The moments of evaluations are not stored: it is then when it was seen, or
    when its training ended, where it is read after that."""
    study: str
    """The study's name on the command line."""


class StudyBegan(Event):
    """The study is stored, and will train."""

    event: Literal["study_began"] = "study_began"
    title: str
    trials_wanted: int
    """Trials at most."""
    trial_tokens: int
    """Length of a trial, in the metric's `budget_unit`, as all keys with "tokens" in them."""
    searches: list[str]
    """What is searched, by dotted path."""
    metric: MetricFields


class Phase(Event):
    """Another part of the work begins. "ended" is the last line."""

    event: Literal["phase"] = "phase"
    phase: PhaseName
    state: State
    """How the study stands at the time of reading."""


class TrialStarted(Event):
    """A training of the search, or one on a fresh seed, began."""

    event: Literal["trial_started"] = "trial_started"
    kind: Literal["search", "finals"]
    trial: int
    """Its number among those of its kind."""
    settings: dict[str, Any]
    """By dotted path."""
    seed: int
    of_trial: int | None
    """In the finals the trial of the search whose settings are trained again; else null."""


class TrialReported(Event):
    """A training was evaluated; of several seeds, one was trained to its end."""

    event: Literal["trial_reported"] = "trial_reported"
    kind: Literal["search", "finals"]
    trial: int
    tokens: int
    loss: float | None
    """What trials are judged by, as the trainer reports it; null if it is not finite."""


class TrialEnded(Event):
    """A training ended."""

    event: Literal["trial_ended"] = "trial_ended"
    kind: Literal["search", "finals"]
    trial: int
    status: Literal["finished", "pruned", "stopped", "diverged", "out of memory", "crashed", "interrupted"]
    reason: str | None
    """Why it ended early; null if it came to its end."""
    tokens: int
    """Where its last evaluation was; 0 before the first."""
    loss: float | None
    """That of a finished training; else null."""
    duration_s: float


class NewBest(Event):
    """A trial of the search finished with a better value than all before it; it proves nothing yet."""

    event: Literal["new_best"] = "new_best"
    trial: int
    loss: float
    settings: dict[str, Any]


class RangeWidened(Event):
    """The best trial was at the edge of a range, which is searched more widely from now on."""

    event: Literal["range_widened"] = "range_widened"
    says: str
    ranges: dict[str, list[Any]]
    """All ranges that differ from the study file's, as they are at the time of reading: [low, high] or the choices."""


class VerdictGiven(Event):
    """The runs on fresh seeds are judged. Gains are positive for the better, in the unit of the metric."""

    event: Literal["verdict"] = "verdict"
    verdict: Literal["better", "no clear gain", "inconclusive", "failed"]
    reason: str
    winner: int | None
    """Trial of the search."""
    gain: float | None
    gain_low: float | None
    """Lower end of its 95 % interval."""
    gain_high: float | None


class FullRunProgress(Event):
    """How far the full run is."""

    event: Literal["full_run"] = "full_run"
    status: str
    tokens: int
    """Length that was asked for."""
    seen_tokens: int
    loss: float | None
    tokens_per_s: float | None
    done_at: float | None
    """When it will be done, seconds since 1970; null where it does not run."""


class Parked(Event):
    """It stopped as it was asked to; the same command resumes it."""

    event: Literal["parked"] = "parked"
    says: str


class Resumed(Event):
    """It goes on."""

    event: Literal["resumed"] = "resumed"
    says: str


class Failed(Event):
    """Nothing is trained any more: no trial finished, the full run failed, or the process that ran it is gone."""

    event: Literal["failed"] = "failed"
    reason: str
    what_to_do: str
    """The command to type next."""


class PeerJoined(Event):
    """A process began to work on a study that machines share."""

    event: Literal["peer_joined"] = "peer_joined"
    peer: str
    """Its id."""
    host: str
    device: str
    """Name of what it trains on; "" if it has left, or waits, before that was measured."""


class PeerLeft(Event):
    """A process no longer works on a study that machines share: it ended, or is dead. `at` is when that was seen."""

    event: Literal["peer_left"] = "peer_left"
    peer: str


class Note(Event):
    """Whatever else the study's history says."""

    event: Literal["note"] = "note"
    kind: str
    says: str


class Heartbeat(Event):
    """A sign of life of `watch`, with what it sees, after a time without another line."""

    event: Literal["heartbeat"] = "heartbeat"
    state: State
    running_pid: int | None
    """The process that runs the study; null if none does."""
    trials: dict[str, int]
    """Counts of trials by how they stand."""
    peers: tuple[PeerAtWork, ...] = ()
    """Of a study that machines share: the processes that work on it now, and what each is at."""


class Watched(
    RootModel[
        Annotated[
            StudyBegan
            | Phase
            | TrialStarted
            | TrialReported
            | TrialEnded
            | NewBest
            | RangeWidened
            | VerdictGiven
            | FullRunProgress
            | Parked
            | Resumed
            | Failed
            | PeerJoined
            | PeerLeft
            | Note
            | Heartbeat,
            Field(discriminator="event"),
        ]
    ]
):
    """One line of `autotune watch --json`."""
