"""One process with two device slots: trials run side by side, each once, and so do the finals."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime

import pytest
from study_folder import StudyFolder, is_over

from autotune.core.records import TrialRecord, TrialStatus, VerdictWord
from autotune.engine.worker import Slot
from autotune.night import opening
from autotune.night.session import Options, Session
from autotune.study.study_file import load

# Starts are stored in whole seconds: two that overlap for more than one more can be told from two in a row.
TRIAL_S = 2.2
TRIALS = 5


@pytest.fixture
def worked(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """A study that was worked through on two slots."""
    folder.write(
        budget={"trials": TRIALS},
        base={"seconds": TRIAL_S},
        pruner={"name": "none"},
        finals={"finalists": 1, "prove_seeds": 2},
        # Looks for trials of dead processes while both slots train: none of its own may count as one.
        limits={"heartbeat_s": 1},
    )
    folder.place_hardware()
    monkeypatch.setattr(opening, "slots_of", lambda _: [Slot("cpu"), Slot("cpu")])
    assert Session(load(folder.file), Options(folder.root / "runs", device="cpu")).work() == 0
    return folder


def test_all_of_it_is_done_once_and_side_by_side(worked: StudyFolder) -> None:
    record = worked.record()
    assert [trial.number for trial in record.trials] == list(range(TRIALS))
    assert {trial.status for trial in record.trials} == {TrialStatus.FINISHED}
    assert record.trials[0].role == "baseline"
    assert len({trial.params["lr"] for trial in record.trials}) == TRIALS
    assert is_over(worked.optuna_trials())

    winner = min(record.trials, key=lambda trial: trial.loss or 99.0)
    pairs = Counter((run.arm, run.seed, run.stage, run.status) for run in record.finals)
    assert len(pairs) == 4 and set(pairs.values()) == {1}
    assert {run.arm for run in record.finals} == {0, winner.number}
    assert {(run.stage, run.status) for run in record.finals} == {("prove", TrialStatus.FINISHED)}
    assert record.verdict is not None
    assert record.verdict.word is not VerdictWord.FAILED and record.verdict.winner in (0, winner.number)
    assert len(record.verdict.seeds) == 2

    # Every training that began is a stored trial, and the other way round.
    stored = Counter((trial.seed, trial.params["lr"]) for trial in (*record.trials, *record.finals))
    assert Counter((training.seed, training.lr) for training in worked.started()) == stored

    for kind, trials in (("trials", record.trials), ("finals", record.finals)):
        at_once = [pair for pair in itertools.combinations(trials, 2) if _overlap(*pair)]
        assert at_once, f"no two of the {kind} overlap"
        assert not [three for three in itertools.combinations(trials, 3) if _certainly_at_once(three)], kind
    # Two residents did all of the work, half of it each or nearly so.
    shares = Counter(training.pid for training in worked.started())
    assert len(shares) == 2 and min(shares.values()) >= 3


def _certainly_at_once(trials: tuple[TrialRecord, ...]) -> bool:
    return all(_overlap(*pair) for pair in itertools.combinations(trials, 2))


def _overlap(one: TrialRecord, other: TrialRecord) -> bool:
    """Whether two trials overlapped for certain: each began before the other ended, at the latest that it can have."""
    spans = []
    for trial in (one, other):
        assert trial.result is not None
        begun = datetime.fromisoformat(trial.result.started_at).timestamp()
        spans.append((begun + 1, begun + trial.result.seconds))
    (first_latest, first_end), (second_latest, second_end) = spans
    return first_latest <= second_end and second_latest <= first_end
