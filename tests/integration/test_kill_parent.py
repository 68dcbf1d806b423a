"""`kill -9` of the whole run, at any moment: the next run goes on and nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections import Counter

import pytest
from optuna.trial import FrozenTrial, TrialState
from study_folder import Run, StudyFolder, is_over, wait_for

from autotune.core.records import TrialRecord, TrialStatus, VerdictWord

KILLS = 16
FULL_TOKENS = 200_000


@pytest.mark.thorough
def test_killed_at_random_moments(folder: StudyFolder) -> None:
    """Every third kill comes while the run starts, the others after some more evaluations."""
    folder.write(
        budget={"trials": 8},
        base={"evaluations": 8, "seconds": 0.1},
        promote={"tokens": FULL_TOKENS, "automatic": True},
    )
    moments = random.Random(22)
    for number in range(KILLS):
        run = folder.start(plainly=number % 3 == 0)
        if number % 3 == 0:
            time.sleep(moments.uniform(0.1, 1.2))
        else:
            _wait_for_evaluations(folder, run, moments.randint(1, 6))
            time.sleep(moments.uniform(0, 0.02))
        assert run.process.poll() is None, f"over before kill {number}:\n{run.text}"
        run.kill()
    last = folder.run()
    assert last.end() == 0, last.text
    _assert_whole(folder, trials=8)


def test_killed_in_the_finals_and_in_the_full_run(folder: StudyFolder) -> None:
    folder.write(
        budget={"trials": 3},
        base={"seconds": 0.1, "fault": "gate", "fault_budget": FULL_TOKENS},
        promote={"tokens": FULL_TOKENS, "automatic": True},
    )
    run = folder.start()
    # The first two are the baseline's, before the search.
    wait_for((folder.directory().trial("finals", 3) / "metrics.jsonl").exists)
    run.kill()
    run = folder.start()
    folder.wait_at_gate()
    run.kill()
    folder.open_gate()
    last = folder.run()
    assert last.end() == 0, last.text
    _assert_whole(folder, trials=3)
    told = folder.optuna_trials()
    (full_trials,) = (group for name, group in told.items() if ".full-" in name)
    assert [trial.state for trial in full_trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_run_holds_its_directory_until_it_is_killed(folder: StudyFolder) -> None:
    first = folder.write(budget={"trials": 2}, base={"fault": "gate"}).start()
    folder.wait_at_gate()
    second = folder.run()
    assert second.end() == 5
    assert f" (PID {first.process.pid}); wait for it" in second.text
    assert "Traceback" not in second.text
    first.kill()
    folder.open_gate()
    third = folder.run()
    assert third.end() == 0, third.text


def _wait_for_evaluations(folder: StudyFolder, run: Run, count: int) -> None:
    wanted = _evaluations(folder) + count
    wait_for(lambda: _evaluations(folder) >= wanted or run.process.poll() is not None)


def _evaluations(folder: StudyFolder) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.directory().root.rglob("metrics.jsonl"))


def _assert_whole(folder: StudyFolder, trials: int) -> None:
    """Asserts that a study that was killed again and again is as if it never had been."""
    folder.wait_until_empty()
    record, told = folder.record(), folder.optuna_trials()
    assert is_over(told)
    assert record.verdict is not None and record.verdict.word is VerdictWord.BETTER
    assert record.attributes.full_run.status == "finished"

    counted = [trial for trial in record.trials if trial.status is not TrialStatus.INTERRUPTED]
    assert len(counted) == trials
    assert sum(trial.role == "baseline" for trial in counted) == 1
    _assert_repeated(record.trials)
    _assert_repeated(record.finals)
    finals = Counter((run.arm, run.seed, run.stage) for run in record.finals if run.status is TrialStatus.FINISHED)
    assert set(finals.values()) == {1} and len(finals) == 6
    (full,) = (group for name, group in told.items() if ".full-" in name)
    assert sum(trial.state is TrialState.COMPLETE for trial in full) == 1

    _assert_every_training_is_known(folder, told)
    with contextlib.closing(sqlite3.connect(record.run.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not list(record.run.root.rglob(".*.tmp"))


def _assert_repeated(trials: tuple[TrialRecord, ...]) -> None:
    """Asserts that each interrupted trial was repeated once, with its role and the very settings it had."""
    repeats = {trial.retry_of: trial for trial in trials if trial.retry_of is not None}
    assert len(repeats) == sum(trial.retry_of is not None for trial in trials)
    for trial in trials:
        assert (trial.status is TrialStatus.INTERRUPTED) == (trial.number in repeats)
        if trial.number in repeats:
            repeat = repeats[trial.number]
            assert (repeat.role, repeat.arm, repeat.stage) == (trial.role, trial.arm, trial.stage)
            assert repeat.params == trial.params or not trial.params
            assert trial.result is not None and trial.result.cause == "the run was killed"


def _assert_every_training_is_known(folder: StudyFolder, told: dict[str, list[FrozenTrial]]) -> None:
    """Asserts that no trial was trained twice, and none without being stored."""
    known = Counter(
        (trial.user_attrs.get("seed"), trial.params.get("lr", trial.user_attrs.get("params", {}).get("lr")))
        for group in told.values()
        for trial in group
    )
    assert not Counter((training.seed, training.lr) for training in folder.started()) - known


@pytest.mark.parametrize("table", ["trials", "studies"])
def test_killed_while_the_database_is_made(folder: StudyFolder, table: str) -> None:
    """Kills the first run as soon as the database has a table, or the study itself."""
    run = folder.write(budget={"trials": 2}).start()
    database = folder.directory().database
    wait_for(lambda: _has(database, table) or run.process.poll() is not None)
    run.kill()
    again = folder.run()
    assert again.end() == 0, again.text


def _has(database: object, table: str) -> bool:
    """Whether the table is there; of the studies, whether there is one."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            rows = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except sqlite3.Error:
        return False
    return table != "studies" or bool(rows)
