"""Everything that may go wrong in a training: told with its cause, and the study goes on."""

from __future__ import annotations

import os
import signal

import pytest
from optuna.trial import TrialState
from study_folder import StudyFolder, is_over

from autotune.core.records import TrialRecord, TrialStatus

FAULTS = ["nan", "blow-up", "crash", "out-of-memory", "exit", "no-loss", "end-of-file", "odd-facts"]
# A grid holds each fault once, beside the baseline and the best learning rate, both without a fault.
GRID = {
    "space": {"fault": {"choices": ["", *FAULTS]}, "lr": {"choices": [0.001, 0.01]}},
    "sampler": {"name": "grid"},
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, object]) -> StudyFolder:
    """A study that met every fault, on both learning rates."""
    folder = StudyFolder(tmp_path_factory.mktemp("faulty"), hardware)
    folder.write(
        budget={"trials": 2 * (len(FAULTS) + 1)},
        pruner={"name": "none"},
        limits={"crashes": 99, "retries": 1, "min_free_bytes": 0},
        **GRID,
    )
    run = folder.run()
    assert run.end() == 0, run.text
    return folder


def _of(folder: StudyFolder, fault: str) -> list[TrialRecord]:
    return [trial for trial in folder.record().trials if trial.params["fault"] == fault]


@pytest.mark.parametrize(
    ("fault", "status", "state", "cause"),
    [
        ("nan", TrialStatus.DIVERGED, TrialState.PRUNED, "diverged at 60,000 tokens: the loss is nan"),
        ("blow-up", TrialStatus.DIVERGED, TrialState.PRUNED, "diverged at 60,000 tokens: loss "),
        ("out-of-memory", TrialStatus.OUT_OF_MEMORY, TrialState.PRUNED, "tried to allocate 2.00 GiB"),
        ("crash", TrialStatus.CRASHED, TrialState.FAIL, "RuntimeError: planned crash"),
        ("end-of-file", TrialStatus.CRASHED, TrialState.FAIL, "EOFError: planned end of a data file"),
        ("no-loss", TrialStatus.CRASHED, TrialState.FAIL, "ValueError: the trainer reported no val_loss"),
        ("exit", TrialStatus.INTERRUPTED, TrialState.FAIL, "its worker ended with exit code 7"),
        ("odd-facts", TrialStatus.FINISHED, TrialState.COMPLETE, ""),
    ],
)
def test_fault_is_told_with_its_cause(
    faulty: StudyFolder, fault: str, status: TrialStatus, state: TrialState, cause: str
) -> None:
    trials = _of(faulty, fault)
    assert {trial.status for trial in trials} == {status}
    told = faulty.optuna_trials()["fake"]
    for trial in trials:
        assert told[trial.number].state is state
        assert trial.result is not None and cause in trial.result.cause
    # One that kills its worker is tried limits.retries times more; all others once.
    assert len(trials) == (4 if fault == "exit" else 2)


def test_crash_leaves_its_traceback_in_the_log(faulty: StudyFolder) -> None:
    trial = _of(faulty, "crash")[0]
    assert trial.result is not None
    log = (faulty.directory().root / trial.result.log).read_text()
    assert "Traceback (most recent call last)" in log and "planned crash" in log


def test_divergence_keeps_its_last_finite_loss(faulty: StudyFolder) -> None:
    for trial in _of(faulty, "nan"):
        assert trial.result is not None and trial.result.last_finite is not None
        assert trial.result.last_finite.tokens_seen == 40_000
        assert set(trial.values) == {20_000, 40_000}


def test_faults_leave_a_whole_study(faulty: StudyFolder) -> None:
    assert is_over(faulty.optuna_trials())
    record = faulty.record()
    # The whole grid, each setting once, less the two that were given up.
    assert sum(trial.status is not TrialStatus.INTERRUPTED for trial in record.trials) == 2 * len(FAULTS)
    assert record.verdict is not None and record.verdict.word == "better"
    faulty.wait_until_empty()


def test_killed_worker_is_replaced_and_its_trial_repeated(folder: StudyFolder) -> None:
    run = folder.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000}).start()
    folder.wait_at_gate()
    os.kill(folder.started()[-1].pid, signal.SIGKILL)
    folder.open_gate()
    assert run.end() == 0, run.text
    trials = folder.record().trials
    (killed,) = (trial for trial in trials if trial.status is TrialStatus.INTERRUPTED)
    assert killed.result is not None and killed.result.worker_died
    assert "its worker was killed by SIGKILL" in killed.result.cause
    (again,) = (trial for trial in trials if trial.retry_of == killed.number)
    assert (again.params, again.status) == (killed.params, TrialStatus.FINISHED)
    assert len({training.pid for training in folder.started()}) == 2
    assert len(trials) == 4 + 1
    folder.wait_until_empty()


def test_trainer_that_always_kills_itself_ends_the_study(folder: StudyFolder) -> None:
    faults = {"fault": "kill", "fault_budget": 100_000}
    folder.write(base=faults, limits={"crashes": 2, "retries": 1, "min_free_bytes": 0})
    run = folder.run()
    assert run.end() == 1
    assert "the default settings did not train (its worker was killed by SIGKILL" in run.text
    assert "and the search does not begin" in run.text
    assert "Traceback" not in run.text
    assert len(folder.started()) == 2
    folder.wait_until_empty()
    status = folder.run("status")
    assert status.end() == 0 and "2 interrupted" in status.text, status.text


def test_one_poisonous_setting_does_not_end_the_study(folder: StudyFolder) -> None:
    """By default one setting is tried as often as crashes in a row are allowed."""
    folder.write(
        budget={"trials": 5},
        enqueue=[{"lr": 0.5}],
        base={"fault": "kill", "fault_budget": 100_000, "fault_above": 0.4, "strikes": 4},
        limits={"crashes": 3, "retries": 3},
    )
    run = folder.run()
    assert run.end() == 0, run.text
    statuses = [trial.status for trial in folder.record().trials]
    assert statuses[1:5] == [TrialStatus.INTERRUPTED] * 4
    assert sum(status is not TrialStatus.INTERRUPTED for status in statuses) == 5


def test_hanging_worker_is_replaced(folder: StudyFolder) -> None:
    """A stopped process reports nothing and cannot be asked; the limit is short, and long enough to start in."""
    folder.write(
        budget={"trials": 3},
        base={"fault": "hang", "fault_budget": 100_000, "strikes": 1, "claimed_s": 0.1},
        limits={"hang_s": 5, "min_free_bytes": 0},
    )
    # The hang's seconds must not be taken for the pace of a training either: all others fit in a minute.
    run = folder.run("--hours", str(60 / 3600))
    assert run.end() == 0, run.text
    trials = folder.record().trials
    hung = trials[0]
    assert hung.status is TrialStatus.CRASHED and hung.result is not None
    assert hung.result.cause.startswith("no progress for ")
    # The default is tried again at once.
    assert (trials[1].role, trials[1].params) == ("baseline", hung.params)
    assert {trial.status for trial in trials[1:]} == {TrialStatus.FINISHED}
    assert folder.optuna_trials()["fake"][0].state is TrialState.FAIL
    folder.wait_until_empty()
