"""Events of a stored study: what a reader is told, and in which order."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
import study_builder

from autotune.cli.answers import events
from autotune.cli.events.history import History
from autotune.core.metric import Metric
from autotune.core.peers import Peer, stored_peer
from autotune.core.promotion_results import FullRunRecord
from autotune.core.records import TrialStatus
from autotune.store.study_record import StudyRecord

NOW = datetime.fromisoformat("2026-01-06T07:00:00+00:00").timestamp()


def told(record: StudyRecord) -> list[events.Event]:
    return [each.event for each in History(record, NOW).all()]


def test_a_finished_study_is_told_in_the_order_of_time() -> None:
    record = study_builder.study()
    happened = told(record)
    assert [event.at for event in happened] == sorted(event.at for event in happened)
    phases = [event.phase for event in happened if isinstance(event, events.Phase)]
    assert phases[-1] == "ended" and phases.index("search") < phases.index("finals")

    ends = [event for event in happened if isinstance(event, events.TrialEnded) and event.kind == "search"]
    assert {event.trial: event.status for event in ends} == {
        trial.number: str(trial.status) for trial in record.trials if trial.result is not None
    }
    for event in ends:
        own = [
            one
            for one in happened
            if getattr(one, "trial", None) == event.trial and getattr(one, "kind", "") == event.kind
        ]
        assert isinstance(own[0], events.TrialStarted) and own[-1] is event


def test_losses_are_as_the_trainer_reports_them() -> None:
    metric = Metric(name="accuracy", maximize=True)
    record = study_builder.with_attributes(study_builder.study(), metric=metric.to_json())
    best = [event.loss for event in told(record) if isinstance(event, events.NewBest)]
    assert best == sorted(best) and best[-1] == max(-trial.loss for trial in record.trials if trial.loss is not None)


def test_a_study_whose_process_is_gone_has_failed_and_a_parked_one_has_not() -> None:
    record = replace(study_builder.study(), verdict=None, finals=())
    [failure] = [event for event in told(record) if isinstance(event, events.Failed)]
    assert "is gone and did not park it" in failure.reason and failure.what_to_do == "autotune run night"
    assert not History(record, NOW).is_over

    line = {"time": NOW - 60, "kind": "parked", "message": "parked, nothing is lost"}
    parked = replace(record, events=(*record.events, line))
    assert not [event for event in told(parked) if isinstance(event, events.Failed)]
    assert [event.says for event in told(parked) if isinstance(event, events.Parked)] == ["parked, nothing is lost"]


def test_a_full_run_that_diverged_is_a_failure_and_the_end() -> None:
    full = FullRunRecord(str(TrialStatus.DIVERGED), "diverged at 500 tokens", tokens=8_000, tokens_seen=500)
    record = study_builder.with_attributes(study_builder.study(), full=full.to_json())
    history = History(record, NOW)
    assert history.is_over and history.state == "full run failed"
    happened = told(record)
    [progress] = [event for event in happened if isinstance(event, events.FullRunProgress)]
    assert (progress.tokens, progress.seen_tokens, progress.status) == (8_000, 500, "diverged")
    assert [event.reason for event in happened if isinstance(event, events.Failed)] == [
        "the full run diverged at 500 tokens"
    ]


def test_of_a_shared_study_it_is_told_who_came_and_who_has_gone() -> None:
    here = Peer("0f3a77c1", "pod-1", "Tesla T4", "2026-01-05T22:00:00+00:00", doing="search", coordinates=True)
    gone = Peer("9d00e1aa", "pod-2", "", "2026-01-05T22:05:00+00:00", doing="preparing")
    record = study_builder.with_attributes(study_builder.running_study(), **dict(map(stored_peer, (here, gone))))
    record = replace(record, peers=(here,))
    joined = [event for event in told(record) if isinstance(event, events.PeerJoined)]
    assert [(event.peer, event.host, event.device) for event in joined] == [
        ("0f3a77c1", "pod-1", "Tesla T4"), ("9d00e1aa", "pod-2", "")
    ]  # fmt: skip
    assert [event.peer for event in told(record) if isinstance(event, events.PeerLeft)] == ["9d00e1aa"]
    life = History(record, NOW).heartbeat()
    assert isinstance(life, events.Heartbeat)
    assert [(peer.id, peer.role, peer.doing) for peer in life.peers] == [("0f3a77c1", "coordinator", "search")]


@pytest.mark.parametrize(
    "record", [study_builder.empty_study(), study_builder.failed_study(), study_builder.hostile_study()]
)
def test_odd_studies_are_told_too(record: StudyRecord) -> None:
    assert all(event.to_text(None).isascii() for event in told(record))
    assert History(record, NOW).heartbeat().study == record.name
