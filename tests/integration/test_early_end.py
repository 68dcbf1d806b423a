"""A search ends early when more trials would hardly bring what can be proved, and says so; deadlines are re-planned."""

from __future__ import annotations

from study_folder import StudyFolder

from autotune.engine.deadline import REPORT_S
from autotune.night.search_end import MIN_TRIALS


def test_a_search_without_further_gain_ends_early_and_goes_on_to_its_finals(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 60}, base={"lr": 0.01, "sigma": 0.05}, finals={"prove_seeds": 3, "max_seeds": 3})
    run = folder.run()
    assert run.end() == 0, run.text
    record = folder.record()
    assert sum(trial.status.teaches for trial in record.trials) == MIN_TRIALS
    assert run.text.count("the search ends early: its later half gained") == 1
    assert record.verdict is not None
    again = folder.run()
    assert again.end() == 0, again.text
    assert len(folder.record().trials) == len(record.trials)


def test_it_goes_on_if_told_to(folder: StudyFolder) -> None:
    folder.write(
        budget={"trials": 30, "ends_early": False},
        base={"lr": 0.01, "sigma": 0.05},
        finals={"prove_seeds": 3, "max_seeds": 3},
    )
    run = folder.run()
    assert run.end() == 0, run.text
    assert sum(trial.status.teaches for trial in folder.record().trials) == 30
    assert "ends early" not in run.text


def test_fewer_trials_than_planned_are_said_to_fit(folder: StudyFolder) -> None:
    """The trainer claims to be ten times as fast in the probe, from which the plan is made."""
    folder.write(
        budget={"trials": 400, "ends_early": False},
        base={"seconds": 0.2, "claimed_s": 0.01},
        finals={"finalists": 0},
        pruner={"name": "none"},
    )
    run = folder.run("--hours", str((REPORT_S + 8) / 3600))
    assert run.end() == 0, run.text
    assert "at the pace of the trials so far, " in run.text and "of them fit, not 400" in run.text


def test_a_space_that_is_used_up_ends_the_search_and_says_so(folder: StudyFolder) -> None:
    """Losses differ between trainings, and the default sampler would insist on the best of four settings."""
    folder.write(
        budget={"trials": 12, "ends_early": False},
        base={"layers": 1, "heads": 1},
        space={"layers": {"choices": [1, 2]}, "heads": {"low": 1, "high": 2}},
        enqueue=[{"layers": 1, "heads": 1}, {"layers": 2}, {"layers": 2}],
        sampler={"name": "gp"},
        finals={"finalists": 0},
    )
    run = folder.run()
    assert run.end() == 0, run.text
    trials = folder.record().trials
    assert sorted(str(trial.params) for trial in trials) == sorted(
        f"{{'layers': {layers}, 'heads': {heads}}}" for layers in (1, 2) for heads in (1, 2)
    )
    assert "every setting of the space was tried: the search ends after 4 of 12 trials" in run.text
    assert "the queued settings layers=1, heads=1 are those of trial 0" in run.text

    again = folder.run()
    assert again.end() == 0, again.text
    assert len(folder.record().trials) == 4
