"""Machines with different cards on one study in a real PostgreSQL: who may join, and what each of them trains."""

from __future__ import annotations

import json
from typing import Any

import pytest
from study_folder import STUDY, StudyFolder, wait_for

from autotune.core.peers import Peer, Stage
from autotune.core.records import TrialRecord, TrialStatus, VerdictWord
from autotune.store.study_record import StudyRecord

LARGE, SMALL = "NVIDIA A10", "Tesla T4"
SMALL_BYTES = 2**33
PAIRS = 3


@pytest.fixture
def fleet(empty_database: StudyFolder) -> StudyFolder:
    """A folder of a shared study with two kinds of machines, whose processes have the cards' names."""
    empty_database.pretend(LARGE, LARGE, out="runs")
    empty_database.pretend(SMALL, SMALL, SMALL_BYTES, out="runs")
    return empty_database


def _write(folder: StudyFolder, trials: int = 8, mixed: bool = True, **base: Any) -> None:
    folder.write(
        storage=folder.url,
        mixed=mixed,
        budget={"trials": trials},
        base={"seconds": 0.3, **base},
        pruner={"name": "none"},
        finals={"prove_seeds": PAIRS, "max_seeds": PAIRS},
        limits={"heartbeat_s": 1, "min_free_bytes": 0},
    )


def _cards(record: StudyRecord, trials: tuple[TrialRecord, ...]) -> list[str]:
    """The card that each trial which has ended was trained on."""
    peers: dict[str, Peer] = record.attributes.all_peers
    return [peers[trial.peer].device_class for trial in trials if trial.status is TrialStatus.FINISHED]


def test_another_card_is_refused_by_name_and_two_machines_keep_two_profiles(fleet: StudyFolder) -> None:
    _write(fleet, mixed=False, fault="gate", fault_budget=STUDY["budget"]["tokens"])
    first = fleet.start(process=LARGE)
    fleet.wait_at_gate()
    refused = fleet.run("--set", "mixed=true", process=SMALL)
    assert refused.end() == 3, refused.text
    assert f"this machine trains on {SMALL}, the study on {LARGE}" in refused.text
    assert "mixed = true" in refused.text and "Traceback" not in refused.text
    assert [peer.device for peer in fleet.record().peers] == [LARGE]

    first.kill()
    later = fleet.run(process=SMALL)
    assert later.end() == 3 and f"the study on {LARGE}" in later.text
    profiles = fleet.directory().root.glob("hardware*.json")
    assert {json.loads(path.read_text())["name"] for path in profiles} >= {LARGE, SMALL}
    # The same kind of machine goes on, whatever else it is called.
    again = fleet.start(process=LARGE)
    fleet.open_gate()
    assert again.end() == 0, again.text


def test_each_card_has_its_own_pace_and_memory_and_no_pair_is_split(fleet: StudyFolder) -> None:
    """What does not fit into the smaller card is trained on the larger one; losses on it count as any other."""
    _write(fleet, trials=14, fault="out-of-memory", fault_above=0.02, fault_card=SMALL)
    too_large = "enqueue=[{lr=0.03}, {lr=0.04}, {lr=0.05}, {lr=0.06}, {lr=0.07}, {lr=0.08}, {lr=0.09}]"
    second = fleet.start("--worker", process=SMALL)
    first = fleet.start("--set", too_large, process=LARGE)
    assert (first.end(), second.end()) == (0, 0), first.text + second.text

    assert f"this machine trains on {SMALL}, the study on {LARGE}" in second.text
    assert f"probing the baseline on {SMALL}, as the study was planned on {LARGE}" in second.text
    record = fleet.record()
    assert record.attributes.plan_on(SMALL) is not None and record.attributes.plan_on(LARGE) is None
    assert LARGE in _cards(record, record.trials)
    assert set(_cards(record, record.finals)) == {LARGE} and len(record.finals) >= 2 * PAIRS
    assert TrialStatus.OUT_OF_MEMORY not in {trial.status for trial in record.trials}
    lost = {trial.number for trial in record.trials if trial.status is TrialStatus.INTERRUPTED}
    again = [trial for trial in record.trials if trial.retry_of is not None]
    assert lost and lost == {trial.retry_of for trial in again}
    assert {trial.needs_bytes for trial in again} == {SMALL_BYTES} and set(_cards(record, tuple(again))) == {LARGE}
    assert record.verdict is not None and record.verdict.word is not VerdictWord.FAILED
    fleet.wait_until_empty()


def test_finals_move_whole_to_the_card_that_is_left(fleet: StudyFolder) -> None:
    _write(fleet, trials=4)
    first = fleet.start(process=LARGE)
    assert first.says("plan: ")
    second = fleet.start(process=SMALL)
    wait_for(lambda: fleet.record().attributes.stage is Stage.FINALS)
    wait_for(lambda: any(run.stage == "prove" and run.arm for run in fleet.record().finals))
    before = fleet.record()
    assert set(_cards(before, before.finals)) == {LARGE}
    first.kill()
    assert second.end() == 0, second.text

    assert f"no process on {LARGE} is left" in second.text
    record = fleet.record()
    assert record.attributes.judged_on == SMALL and record.verdict is not None
    assert set(_cards(record, record.finals)) == {SMALL} and len(record.verdict.seeds) == PAIRS
    assert set(_cards(record, record.other_finals)) == {LARGE}
    fleet.wait_until_empty()
