"""The edge rule: which ranges are widened, how far, and that samplers follow."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.attributes import StudyAttributes
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.search.dimension import Dimension
from autotune.search.ranges import EDGE_FRAC, MIN_FINISHED, CurrentRanges, describe_widening, widened_ranges
from autotune.search.samplers import build_sampler
from autotune.search.space import SearchSpace

LR = {"low": 0.001, "high": 0.1, "log": True, "limits": [0.00001, 1.0]}


def space_of(**dimensions: object) -> SearchSpace:
    return SearchSpace.model_validate(dimensions)


def trials_with(best: dict[str, object], count: int = MIN_FINISHED) -> list[TrialRecord]:
    """A search whose first trial is the best."""

    def trial(number: int) -> TrialRecord:
        result = TrialResult(TrialStatus.FINISHED, points=(EvalPoint(100, 3.0 + number),))
        return TrialRecord(number, best if not number else dict.fromkeys(best, 0.01), TrialStatus.FINISHED, result)

    return [trial(number) for number in range(count)]


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        # A third of two decades is a factor of 10 ** (2 / 3).
        (0.0012, (0.001 * 10 ** (-2 / 3), 0.1)),
        (0.09, (0.001, 0.1 * 10 ** (2 / 3))),
        (0.0017, None),
        (0.01, None),
    ],
)
def test_a_range_grows_by_a_third_on_its_own_scale(lr: float, expected: tuple[float, float] | None) -> None:
    ranges = widened_ranges(space_of(lr=LR), trials_with({"lr": lr}))
    assert ranges == ({} if expected is None else {"lr": pytest.approx(expected)})


def test_it_grows_no_further_than_its_limits() -> None:
    space = space_of(lr={**LR, "limits": [0.0008, 0.1]})
    assert widened_ranges(space, trials_with({"lr": 0.001})) == {"lr": (0.0008, 0.1)}
    assert widened_ranges(space, trials_with({"lr": 0.1})) == {}


def test_whole_numbers_grow_by_one_at_least() -> None:
    space = space_of(layers={"low": 2, "high": 3, "limits": [1, 8]})
    assert widened_ranges(space, trials_with({"layers": 3})) == {"layers": (2, 4)}
    ends = widened_ranges(space, trials_with({"layers": 2}))["layers"]
    assert ends == (1, 3) and all(isinstance(end, int) for end in ends)


def test_without_limits_or_enough_trials_nothing_grows() -> None:
    assert widened_ranges(space_of(lr={**LR, "limits": None}), trials_with({"lr": 0.1})) == {}
    assert widened_ranges(space_of(lr=LR), trials_with({"lr": 0.1}, MIN_FINISHED - 1)) == {}
    assert widened_ranges(space_of(lr=LR, heads={"choices": [2, 4]}), trials_with({"lr": 0.01, "heads": 4})) == {}


def test_a_setting_that_the_best_trial_does_not_have_stays() -> None:
    space = space_of(heads={"choices": [2, 4]}, lr={**LR, "when": {"heads": 4}})
    assert widened_ranges(space, trials_with({"heads": 2})) == {}


@given(position=st.floats(0, 1), log=st.booleans(), reach=st.floats(1, 50))
def test_a_widened_range_holds_the_old_one_and_its_best_lies_inside(position: float, log: bool, reach: float) -> None:
    """Far limits: afterwards the best value is at no edge, so that one trial widens a range once."""
    space = space_of(lr={"low": 1.0, "high": 10.0, "log": log, "limits": [1 / reach if log else -reach, 10.0 * reach]})
    best = float(space["lr"].at(position))
    widened = widened_ranges(space, trials_with({"lr": min(max(best, 1.0), 10.0)}))
    if not widened:
        return
    low, high = widened["lr"]
    limits = space["lr"].limits
    assert limits is not None and limits[0] <= low <= 1.0 and 10.0 <= high <= limits[1]
    after = space.with_ranges(widened)["lr"]
    if limits[0] < low < 1.0 or 10.0 < high < limits[1]:
        assert EDGE_FRAC < after.position(best) < 1 - EDGE_FRAC


@pytest.mark.parametrize("name", ["tpe", "gp", "random"])
def test_samplers_propose_in_the_widened_range(name: str) -> None:
    """The optimum lies beyond the old range; both settings still come from one proposal."""
    space = space_of(
        lr={"low": 0.001, "high": 0.01, "log": True, "limits": [0.001, 1.0]}, gain={"low": 0.0, "high": 1.0}
    )
    sampler = build_sampler(name, {}, space, {"lr": 0.005, "gain": 0.5}, seed=1)
    assert isinstance(sampler, CurrentRanges) is (name != "random")
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        values = space.with_ranges(StudyAttributes(study).ranges).suggest(trial, {})
        return -float(values["lr"]) + abs(float(values["gain"]) - 0.5)

    study.optimize(objective, n_trials=12)
    StudyAttributes(study).ranges = {"lr": (0.001, 0.1)}
    study.optimize(objective, n_trials=12)
    after = study.trials[12:]
    assert max(trial.params["lr"] for trial in after) > 0.01
    assert all(trial.params["lr"] <= 0.1 for trial in after)


def test_it_is_told_in_words() -> None:
    steps = describe_widening(SearchSpace({"steps": Dimension(low=1000, high=4000)}), {"steps": (333, 4000)})
    assert steps.endswith("steps was 1000 to 4000 and is now 333 to 4000")
    words = describe_widening(space_of(lr=LR), {"lr": (0.001, 0.4641)})
    assert words == (
        "the best trial lies at the edge of a range, so the range is widened: "
        "lr was 0.001 to 0.1 (log) and is now 0.001 to 0.464"
    )
