"""Trials of several seeds: their loss is the mean, and the Wilcoxon test stops them between seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import pytest
from study_folder import StudyFolder, wait_for

from autotune.core.records import TrialStatus
from reports.tables.pruning import pruning_audit

# The test cannot decide before the fourth seed: of n pairs alike the least p is 1 / 2 ** n.
WILCOXON: dict[str, Any] = {
    "budget": {"trials": 8, "seeds": 6},
    "base": {"sigma": 0.01, "lr": 0.01},
    "pruner": {"name": "wilcoxon", "audit_frac": 0},
    "finals": {"finalists": 0},
}


def seeds_by_lr(folder: StudyFolder) -> dict[float, list[int]]:
    found = defaultdict(list)
    for training in folder.started():
        found[training.lr].append(training.seed)
    return dict(found)


def test_worse_settings_are_stopped_between_seeds(folder: StudyFolder) -> None:
    run = folder.write(**WILCOXON).run()
    assert run.end() == 0, run.text
    record = folder.record()
    stopped = [trial for trial in record.trials if trial.status is TrialStatus.PRUNED]
    assert stopped and "behind the best trial after 4 of 6 seeds" in run.text
    trained = seeds_by_lr(folder)
    for trial in record.trials:
        seeds = trained[trial.params["lr"]]
        assert seeds == list(range(1, 1 + len(seeds)))
        assert len(seeds) == 6 if trial.status is TrialStatus.FINISHED else 4 <= len(seeds) < 6
    assert len(trained[0.01]) == 6, "the baseline"


def test_what_the_test_would_stop_may_run_on_as_an_audit_and_is_reported(folder: StudyFolder) -> None:
    run = folder.write(**{**WILCOXON, "pruner": {"name": "wilcoxon", "audit_frac": 1.0}}).run()
    assert run.end() == 0, run.text
    record = folder.record()
    audited = [trial for trial in record.trials if trial.audited_at is not None]
    assert audited and all(len(trial.seed_losses) == 6 for trial in audited)

    audit = pruning_audit(record)
    assert audit is not None
    assert (audit.audited, audit.pruned, audit.unit) == (len(audited), 0, "seeds")


def test_a_trials_loss_is_the_mean_of_its_seeds(folder: StudyFolder) -> None:
    folder.write(**{**WILCOXON, "budget": {"trials": 2, "seeds": 3}, "pruner": {"name": "none"}})
    run = folder.run()
    assert run.end() == 0, run.text
    for trial in folder.record().trials:
        finals = list(trial.seed_losses)
        assert len(finals) == 3 and len(set(finals)) == 3
        assert trial.loss == pytest.approx(statistics.mean(finals))
        assert trial.result is not None
        assert [point.tokens_seen for point in trial.result.points] == [20_000, 40_000, 60_000, 80_000, 100_000]


def test_finals_and_the_full_run_train_one_seed_at_a_time(folder: StudyFolder) -> None:
    folder.write(**{**WILCOXON, "budget": {"trials": 3, "seeds": 2}, "finals": {"finalists": 1, "prove_seeds": 2}})
    run = folder.run("--set", "promote.automatic=true", "--set", "promote.tokens=200000")
    assert run.end() == 0, run.text
    started = folder.started()
    assert sum(training.tokens == 200_000 for training in started) == 1
    assert sum(training.seed > 1000 for training in started) == len(folder.record().finals)


def test_killed_between_seeds_a_trial_is_trained_again_from_its_first(folder: StudyFolder) -> None:
    folder.write(
        **{**WILCOXON, "base": {"seconds": 0.2, "sigma": 0.01, "lr": 0.01}, "budget": {"trials": 2, "seeds": 4}}
    )
    run = folder.start()
    wait_for(lambda: len(folder.started()) >= 2)
    run.kill()
    folder.wait_until_empty()
    again = folder.run()
    assert again.end() == 0, again.text
    record = folder.record()
    assert [trial.status for trial in record.trials if trial.role == "baseline"] == [
        TrialStatus.INTERRUPTED,
        TrialStatus.FINISHED,
    ]
    assert seeds_by_lr(folder)[0.01][-4:] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"budget": {"seeds": 3}},
            'pruner.name: trials with several seeds are compared seed by seed; use "wilcoxon" or "none"',
        ),
        (
            {"pruner": {"name": "wilcoxon"}},
            'pruner.name: "wilcoxon" compares trials seed by seed; set budget.seeds to 5 or more',
        ),
        (
            {"budget": {"seeds": 3}, "pruner": {"name": "none"}, "objective": "loss_and_seconds"},
            "budget.seeds: trials with several seeds are judged by their mean loss alone; leave seeds out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(folder: StudyFolder, changes: dict[str, Any], message: str) -> None:
    run = folder.write(**changes).run()
    assert run.end() == 2
    assert message in run.text
