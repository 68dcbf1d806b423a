"""Trials that the pruner would stop: stopped and marked, or run on as an audit."""

from __future__ import annotations

import pytest
from study_folder import StudyFolder

from autotune.core.records import TrialRecord, TrialStatus

PRUNER = {"name": "median", "n_startup_trials": 2, "warmup_frac": 0.3}


def searched(folder: StudyFolder, audit_frac: float) -> tuple[TrialRecord, ...]:
    folder.write(budget={"trials": 14}, sampler={"name": "random"}, pruner={**PRUNER, "audit_frac": audit_frac})
    run = folder.run("--set", "finals.finalists=0")
    assert run.end() == 0, run.text
    return folder.record().trials


def test_every_trial_to_be_stopped_runs_on(folder: StudyFolder) -> None:
    trials = searched(folder, 1.0)
    audited = [trial for trial in trials if trial.audited_at is not None]
    assert audited
    assert {trial.status for trial in trials} == {TrialStatus.FINISHED}
    assert {trial.stopped_at for trial in trials} == {None}
    # Judged at the first evaluation past the warm-up or at a later one, but not at the end.
    assert {trial.audited_at for trial in audited} <= {40_000, 60_000, 80_000}


def test_without_an_audit_they_are_stopped_where_the_pruner_says(folder: StudyFolder) -> None:
    trials = searched(folder, 0.0)
    stopped = [trial for trial in trials if trial.status is TrialStatus.PRUNED]
    assert stopped
    for trial in stopped:
        assert trial.result is not None
        assert trial.stopped_at == trial.result.points[-1].tokens_seen
    assert all(trial.stopped_at is None for trial in trials if trial not in stopped)
    assert {trial.audited_at for trial in trials} == {None}


@pytest.mark.parametrize("audit_frac", [0.0, 1.0])
def test_the_baseline_is_neither(folder: StudyFolder, audit_frac: float) -> None:
    """Its learning rate is four decades off here, so that a pruner would stop it at once."""
    folder.write(
        budget={"trials": 8},
        base={"lr": 0.00001},
        space={"lr": {"low": 0.00001, "high": 0.01, "log": True}},
        sampler={"name": "random"},
        pruner={**PRUNER, "audit_frac": audit_frac},
    )
    run = folder.run("--set", "finals.finalists=0")
    assert run.end() == 0, run.text
    baseline = folder.record().baseline
    assert baseline is not None and baseline.loss is not None
    assert (baseline.audited_at, baseline.stopped_at) == (None, None)
