"""What has happened to a study, as events, from its stored records alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from autotune.cli.answers import events
from autotune.cli.answers.events import Event, PhaseName
from autotune.cli.answers.studies import MetricFields, PeerAtWork, State
from autotune.cli.status import peers_at_work
from autotune.core.peers import all_peers
from autotune.core.records import TrainingKind, TrialRecord, TrialStatus
from autotune.finals.verdict import ATTRIBUTE
from autotune.progress.board import title
from autotune.promotion.next_step import next_step
from autotune.promotion.standing import state_of
from autotune.store.study_record import StudyRecord

_OVER = ("done", "failed", "full run failed")
"""States of a study in which nothing is left to do."""
_TOLD_OTHERWISE = ("started", "ended", "verdict")
"""Kinds of lines that say what is read more exactly elsewhere."""
_FIRST, _EVALUATED, _ENDED, _LAST = range(4)


@dataclass(frozen=True)
class Told:
    """An event with what it is known by, so that it is told once.

    Args:
        key: What it is known by.
        rank: Its place among events of the same moment.
        event: The event.
    """

    key: tuple[Any, ...]
    rank: int
    event: Event


def of_lines(study: str, lines: Sequence[Mapping[str, Any]], ranges: Mapping[str, Sequence[Any]]) -> list[Told]:
    """Return the events of a study's history, which may have begun before the study was stored.

    Args:
        study: Its name.
        lines: The history.
        ranges: Ranges that differ from the study file's.
    """
    told = []
    lines = with_times(lines)
    widened = {path: list(ends) for path, ends in ranges.items()}
    for place, line in enumerate(lines):
        kind, says = str(line["kind"]), str(line["message"])
        # The runs before a full run are in records of their own, and the history alone tells of them here.
        if kind in _TOLD_OTHERWISE and "bracket" not in says.split(" ")[:2]:
            continue

        common = {"at": float(line["time"]), "study": study}
        event: Event = events.Note(**common, kind=kind, says=says)
        if kind == "parked":
            event = events.Parked(**common, says=says)
        elif kind == "resumed":
            event = events.Resumed(**common, says=says)
        elif kind == "ranges":
            event = events.RangeWidened(**common, says=says, ranges=widened)
        told.append(Told(("line", place), _FIRST, event))

    preparing = next((float(line["time"]) for line in lines if line["kind"] == "preparing"), None)
    if preparing is not None:
        phase = events.Phase(at=preparing, study=study, phase="preparing", state="preparing")
        told.append(Told(("phase", "preparing"), _FIRST - 1, phase))
    return told


@dataclass(frozen=True)
class History:
    """The events of a study that is stored.

    Args:
        record: The study, as it was read.
        now: When it was read, seconds since 1970.
    """

    record: StudyRecord
    now: float

    @cached_property
    def state(self) -> State:
        """How the study stands; one that was parked goes on, whatever it had come to."""
        state = state_of(self.record)
        return "parked" if state in _OVER and self._is_parked else state

    @cached_property
    def _lines(self) -> list[Mapping[str, Any]]:
        return with_times(self.record.events)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in _OVER

    def all(self) -> list[Told]:
        """Return everything that has happened, in the order of time."""
        record = self.record
        told = of_lines(record.name, record.events, record.attributes.ranges)
        told += [*self._beginning(), *self._trainings(), *self._bests(), *self._conclusion(), *self._phases()]
        told += self._peers()
        return sorted(told, key=lambda each: (each.event.at, each.rank))

    def heartbeat(self) -> Event:
        """Return a sign of life, with what is seen of the study."""
        counts: dict[str, int] = {}
        for trial in self.record.trials:
            counts[str(trial.status)] = counts.get(str(trial.status), 0) + 1
        pid = self.record.run.running_pid()
        return events.Heartbeat(
            **self._at(self.now),
            state=self.state,
            running_pid=pid,
            trials=counts,
            peers=tuple(PeerAtWork(**peer) for peer in peers_at_work(self.record)),
        )

    @property
    def _is_parked(self) -> bool:
        return bool(self._lines) and self._lines[-1]["kind"] == "parked"

    def _at(self, at: float) -> dict[str, Any]:
        return {"at": at, "study": self.record.name}

    def _beginning(self) -> Iterator[Told]:
        spec, metric = self.record.spec, MetricFields(**self.record.attributes.metric.to_json())
        event = events.StudyBegan(
            **self._at(self._began),
            title=spec.title,
            trials_wanted=spec.most_trials,
            trial_tokens=spec.budget.tokens,
            searches=list(spec.space),
            metric=metric,
        )
        yield Told(("began",), _FIRST, event)

    @cached_property
    def _began(self) -> float:
        return _unix_s(self.record.created_at) or self.now

    def _peers(self) -> Iterator[Told]:
        living = {peer.id for peer in self.record.peers}
        for peer in all_peers(self.record.attributes.holder.user_attrs):
            which = {"study": self.record.name, "peer": peer.id}
            if peer.device or peer.waits or peer.id not in living:
                at = _unix_s(peer.since) or self.now
                joined = events.PeerJoined(**which, at=at, host=peer.host, device=peer.device)
                yield Told(("joined", peer.id), _FIRST, joined)
            if peer.id not in living:
                yield Told(("left", peer.id), _LAST, events.PeerLeft(**which, at=self.now))

    # --- trainings ---

    @cached_property
    def _line_times(self) -> dict[tuple[str, str], float]:
        """When trainings started and ended, by "started" or "ended" and their title."""
        times = {}
        for line in self._lines:
            words = str(line["message"]).split(" ")
            if line["kind"] == "started":
                times["started", " ".join(words)] = float(line["time"])
            elif line["kind"] == "ended":
                times["ended", " ".join(words[1:3])] = float(line["time"])  # after a mark
        return times

    def _has_begun(self, kind: TrainingKind, trial: TrialRecord) -> bool:
        """Return whether a training has begun for certain; one that is being drawn has not all of its settings yet."""
        if trial.status is TrialStatus.RUNNING:
            is_said = ("started", title(kind, trial.number)) in self._line_times
            return is_said or bool(self._evaluations(trial))
        return trial.status is not TrialStatus.WAITING

    def _started_at(self, kind: TrainingKind, trial: TrialRecord) -> float:
        """Return when a training started; one of another machine, of which nothing is known yet, does so now."""
        at = self._line_times.get(("started", title(kind, trial.number)))
        if at is None and trial.result is not None:
            at = _unix_s(trial.result.started_at)
        return self.now if at is None else at

    def _ended_at(self, kind: TrainingKind, trial: TrialRecord) -> float:
        at = self._line_times.get(("ended", title(kind, trial.number)))
        seconds = trial.result.seconds if trial.result else 0.0
        return self._started_at(kind, trial) + seconds if at is None else at

    def _trainings(self) -> Iterator[Told]:
        for trial in self.record.trials:
            yield from self._training("search", TrainingKind.SEARCH, trial)
        for trial in self.record.finals:
            yield from self._training("finals", TrainingKind.FINALS, trial)

    def _training(self, name: Literal["search", "finals"], kind: TrainingKind, trial: TrialRecord) -> Iterator[Told]:
        # What was taken along is a line of the history.
        if trial.taken_from is not None or not self._has_begun(kind, trial):
            return

        which = {"study": self.record.name, "kind": name, "trial": trial.number}
        started = events.TrialStarted(
            **which,
            at=self._started_at(kind, trial),
            settings=dict(trial.params),
            seed=trial.seed,
            of_trial=trial.arm,
        )
        yield Told((name, trial.number, "started"), _FIRST, started)

        is_running = trial.status is TrialStatus.RUNNING
        at = self.now if is_running else self._ended_at(kind, trial)
        for tokens, loss in self._evaluations(trial).items():
            reported = events.TrialReported(**which, at=at, tokens=tokens, loss=self._value(loss))
            yield Told((name, trial.number, tokens), _EVALUATED, reported)
        if not is_running:
            yield Told((name, trial.number, "ended"), _ENDED, self._ended(which, at, trial))

    def _evaluations(self, trial: TrialRecord) -> Mapping[int, float]:
        if not trial.seed_losses:
            return trial.values
        tokens = self.record.spec.budget.tokens
        return {count * tokens: loss for count, loss in enumerate(trial.seed_losses, start=1)}

    def _ended(self, which: Mapping[str, Any], at: float, trial: TrialRecord) -> Event:
        result = trial.result
        last = result.points[-1] if result and result.points else None
        return events.TrialEnded(
            **which,
            at=at,
            status=str(trial.status),
            reason=(result.cause if result else "its process is gone") or None,
            tokens=last.tokens_seen if last else 0,
            loss=None if trial.loss is None else self._value(trial.loss),
            duration_s=result.seconds if result else 0.0,
        )

    def _value(self, loss: float) -> float:
        return self.record.attributes.metric.value(loss)

    def _bests(self) -> Iterator[Told]:
        losses = [trial.loss for trial in self.record.trials if trial.taken_from is not None]
        best = min((loss for loss in losses if loss is not None), default=math.inf)
        finished = [trial for trial in self.record.trials if trial.loss is not None and trial.taken_from is None]
        for trial in sorted(finished, key=lambda trial: self._ended_at(TrainingKind.SEARCH, trial)):
            if trial.loss is None or not trial.loss < best:
                continue
            best = trial.loss
            at = self._ended_at(TrainingKind.SEARCH, trial)
            event = events.NewBest(
                **self._at(at), trial=trial.number, loss=self._value(best), settings=dict(trial.params)
            )
            yield Told(("best", trial.number), _LAST, event)

    # --- what it comes to ---

    def _conclusion(self) -> Iterator[Told]:
        verdict, full = self.record.verdict, self.record.attributes.full_run
        if verdict is not None:
            names = ("reason", "winner", "gain", "gain_low", "gain_high")
            figures = {name: getattr(verdict, name) for name in names}
            at = self._last_line_at("verdict")
            event: Event = events.VerdictGiven(**self._at(at), verdict=str(verdict.word), **figures)
            yield Told(("verdict", str(verdict.word), verdict.gain), _FIRST, event)

        if full is not None:
            event = events.FullRunProgress(
                **self._at(full.at or self._line_times.get(("ended", title(TrainingKind.FULL, 0)), self.now)),
                status=full.status,
                tokens=full.tokens,
                seen_tokens=full.tokens_seen,
                loss=None if full.val_loss is None else self._value(full.val_loss),
                tokens_per_s=full.tokens_per_s,
                done_at=full.done_at,
            )
            yield Told(("full", full.tokens, full.tokens_seen, full.status), _EVALUATED, event)

        if (reason := self._failure()) is not None:
            what = next_step(self.record).command
            yield Told(
                ("failed", reason, len(self._lines)),
                _LAST,
                events.Failed(**self._at(self._last_at), reason=reason, what_to_do=what),
            )

    def _failure(self) -> str | None:
        """Return why nothing is trained any more; None if something is, or if it was parked or is done."""
        verdict, full = self.record.verdict, self.record.attributes.full_run
        if self.state == "failed" and verdict is not None:
            return verdict.reason
        if self.state == "full run failed" and full is not None:
            return f"the full run {full.cause or full.status}"
        # Of a shared study only the machine that parked it has a line of that.
        if self.record.storage_url:
            return None
        if self.state == "parked" and not self._is_parked:
            return "the process that ran it is gone and did not park it: it was killed, or said why on its console"
        if self.state == "not begun":
            return "the process that began it is gone before it trained anything: its console says why"
        return None

    # --- phases ---

    def _phases(self) -> Iterator[Told]:
        for key, phase, at, rank in self._known_phases():
            event = events.Phase(**self._at(at), phase=phase, state=self.state)
            yield Told(("phase", *key), rank, event)

    def _known_phases(self) -> Iterator[tuple[tuple[Any, ...], PhaseName, float, int]]:
        record = self.record
        measured = _unix_s(str(record.hardware.get("measured_at", "")))
        if measured is None or measured >= self._began:
            yield ("profiling",), "profiling", self._began, _FIRST
        if measured is not None:
            yield ("planning",), "planning", max(self._began, measured), _FIRST

        baseline = record.baseline
        proving = [run for run in record.finals if baseline is None or run.arm != baseline.number]
        for phase, kind, trials in (
            ("search", TrainingKind.SEARCH, record.trials),
            ("finals", TrainingKind.FINALS, [run for run in proving if run.stage != ATTRIBUTE]),
            ("attribution", TrainingKind.FINALS, [run for run in record.finals if run.stage == ATTRIBUTE]),
        ):
            own = [trial for trial in trials if trial.taken_from is None]
            begun = [self._started_at(kind, trial) for trial in own if self._has_begun(kind, trial)]
            if begun:
                yield (phase,), phase, min(begun), _FIRST - 1  # type: ignore[misc]  # a literal each

        promoted = [float(line["time"]) for line in self._lines if line["kind"] in ("promotion", "best")]
        if record.verdict is not None and promoted:
            yield ("promotion",), "promotion", promoted[0], _FIRST - 1
        full = record.attributes.full_run
        if full is not None:
            at = self._line_times.get(("started", title(TrainingKind.FULL, 0)), full.at or self.now)
            yield ("full run", full.tokens), "full run", at, _FIRST - 1
        if self.is_over:
            yield ("ended", len(record.events)), "ended", self.now, _LAST + 1

    def _last_line_at(self, kind: str) -> float:
        return next((float(line["time"]) for line in reversed(self._lines) if line["kind"] == kind), self.now)

    @property
    def _last_at(self) -> float:
        """When the history's last line was written."""
        return float(self._lines[-1]["time"]) if self._lines else self._began


def with_times(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines of a history whose time is a number: somebody may have edited it.

    Args:
        lines: The history.
    """
    return [line for line in lines if isinstance(line["time"], int | float) and math.isfinite(line["time"])]


def _unix_s(iso: str) -> float | None:
    """Return a moment in seconds since 1970, None for what is none."""
    try:
        return datetime.fromisoformat(iso).timestamp()
    except ValueError:
        return None
