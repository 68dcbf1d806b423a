"""The best value at an edge widens the range within its limits, is said, and survives a restart."""

from __future__ import annotations

from study_folder import StudyFolder

LIMITS = [0.0001, 1.0]


def test_an_optimum_beyond_the_range_is_reached(folder: StudyFolder) -> None:
    """The optimum is 0.01, the range ends at 0.002."""
    space = {"lr": {"low": 0.0005, "high": 0.002, "log": True, "limits": LIMITS}}
    folder.write(budget={"trials": 14}, base={"sigma": 0.0001}, space=space, pruner={"name": "none"})
    run = folder.run()
    assert run.end() == 0, run.text
    assert (
        "the best trial lies at the edge of a range, so the range is widened: lr was 0.0005 to 0.002 (log)" in run.text
    )
    first = folder.record()
    high = first.spec.space["lr"].high
    assert high is not None and 0.002 < high <= 1.0
    again = folder.write(budget={"trials": 40}, base={"sigma": 0.0001}, space=space, pruner={"name": "none"}).run()
    assert again.end() == 0, again.text
    record = folder.record()
    tried = [trial.params["lr"] for trial in record.trials]
    assert max(tried[:10]) <= 0.002 < max(tried)
    best = min((trial for trial in record.trials if trial.loss is not None), key=lambda trial: trial.loss or 9)
    assert best.params["lr"] > 0.004
    assert LIMITS[0] <= min(tried) and max(tried) <= LIMITS[1]
    assert record.spec.space["lr"].low == 0.0005


def test_of_loss_and_seconds_the_lowest_loss_is_no_optimum(folder: StudyFolder) -> None:
    """Nor does a search for both end because the loss alone has come to its end."""
    folder.write(
        objective="loss_and_seconds",
        budget={"trials": 30},
        base={"sigma": 0.05},
        space={"lr": {"low": 0.0005, "high": 0.002, "log": True, "limits": LIMITS}},
        finals={"prove_seeds": 3, "max_seeds": 3},
        pruner={"name": "none"},
    )
    run = folder.run()
    assert run.end() == 0, run.text
    record = folder.record()
    assert sum(trial.status.teaches for trial in record.trials) == 30
    assert "ends early" not in run.text and "widened" not in run.text
