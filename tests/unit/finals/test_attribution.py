"""Which change gave what: arms, intervals, ties, and what is promoted."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.core.study_results import Attribution
from autotune.finals.attribution import Attributing, Blocks
from autotune.finals.verdict import ATTRIBUTE, PROVE
from autotune.search.space import SearchSpace

SEEDS = (1002, 1003, 1004)
NAMES = ("a", "b", "c", "d", "e")
Loss = Callable[[Mapping[str, Any], int], float | None]


def space_of(names: Sequence[str], **more: Any) -> SearchSpace:
    ranges = {name: {"low": 0.0, "high": 1.0} for name in names}
    return SearchSpace.model_validate({**ranges, **more})


def run(number: int, params: Mapping[str, Any], loss: float | None, seed: int, arm: int, stage: str) -> TrialRecord:
    status = TrialStatus.DIVERGED if loss is None else TrialStatus.FINISHED
    points = () if loss is None else (EvalPoint(100, loss),)
    return TrialRecord(number, params, status, TrialResult(status, points=points), "final", seed, arm, stage=stage)


def attribute(
    loss: Loss,
    winner: Mapping[str, Any],
    base: Mapping[str, Any],
    space: SearchSpace,
    seeds: Sequence[int] = SEEDS,
    min_gain: float = math.inf,
) -> tuple[Attribution, int]:
    """Trains what is asked for until nothing is, and returns the result with the number of trainings."""
    arms = {0: space.baseline(base), 7: winner}
    runs = [
        run(number, arms[arm], loss(arms[arm], seed), seed, arm, PROVE)
        for number, (arm, seed) in enumerate(itertools.product(arms, seeds))
    ]
    baseline, best = (TrialRecord(arm, params, TrialStatus.FINISHED) for arm, params in arms.items())
    attributing, trained = Attributing(space, base, baseline, best, seeds, min_gain), 0
    while missing := attributing.missing(runs):
        for wanted in missing:
            assert (wanted.arm, wanted.stage) == (7, ATTRIBUTE)
            loss_there = loss(wanted.params, wanted.seed)
            runs.append(run(len(runs), wanted.params, loss_there, wanted.seed, wanted.arm, wanted.stage))
            trained += 1
    return attributing.result(runs), trained


def additive(effects: Mapping[str, float], sigma: float = 0.0, draw: int = 0) -> Loss:
    """Each setting takes its effect off the loss in proportion to its value; seeds have an effect and noise each."""

    def loss(params: Mapping[str, Any], seed: int) -> float:
        noise = np.random.default_rng([draw, seed, *(int(1e6 * params[name]) for name in sorted(params))]).normal()
        shared = np.random.default_rng([draw, seed]).normal()
        return float(3 - sum(effects.get(name, 0) * params[name] for name in params) + sigma * (noise + shared))

    return loss


def test_each_change_gets_its_own_effect_in_the_order_of_their_size() -> None:
    base, winner = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 1.0)
    effects = {"a": 0.01, "b": 0.2, "c": 0.0, "d": 0.05, "e": 0.0}
    attribution, trained = attribute(additive(effects), winner, base, space_of(NAMES))
    assert [change.path for change in attribution.changes][:3] == ["b", "d", "a"]
    for change in attribution.changes:
        assert change.gain is not None and change.harm is not None
        assert (change.before, change.after) == (0.0, 1.0)
        assert change.gain[0] == pytest.approx(effects[change.path], abs=1e-12)
        assert change.harm[0] == pytest.approx(effects[change.path], abs=1e-12)
    assert {change.path for change in attribution.changes if change.is_tie} == {"c", "e"}
    assert attribution.params == {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0, "e": 0.0}
    assert attribution.note == "no gain could be measured for c, e: left at default"
    assert (attribution.baseline_loss, attribution.winner_loss, attribution.loss) == pytest.approx((3.0, 2.74, 2.74))
    assert (attribution.winner, attribution.seeds) == (7, SEEDS)
    # Five arms less one change each, three inside of the path beyond those; what is left without ties is on the path.
    assert trained == (5 + 3) * len(SEEDS)


def test_gains_on_the_path_add_up_to_the_winners_gain() -> None:
    base, winner = dict.fromkeys(NAMES, 0.0), {"a": 0.3, "b": 0.9, "c": 0.5, "d": 1.0, "e": 0.1}
    attribution, _ = attribute(additive({"a": 0.3, "b": -0.1, "c": 0.2}, sigma=0.05), winner, base, space_of(NAMES))
    total = sum(change.gain[0] for change in attribution.changes if change.gain)
    assert total == pytest.approx(attribution.baseline_loss - attribution.winner_loss)


def test_settings_that_the_winner_shares_with_the_default_are_no_changes() -> None:
    attribution, _ = attribute(additive({"a": 1.0}), {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, space_of("ab"))
    assert [change.path for change in attribution.changes] == ["a"]


def test_one_change_needs_no_training() -> None:
    attribution, trained = attribute(additive({"a": 0.3}, sigma=0.01), {"a": 1.0}, {"a": 0.0}, space_of("a"))
    assert trained == 0
    assert attribution.changes[0].gain is not None and attribution.changes[0].gain == attribution.changes[0].harm
    assert attribution.params == {"a": 1.0}


def test_of_two_changes_that_do_the_same_one_is_kept() -> None:
    def either(params: Mapping[str, Any], seed: int) -> float:
        return 3 - max(params["a"], params["b"]) - 0.1 * params["c"]

    attribution, _ = attribute(either, dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.0), space_of("abc"))
    assert sorted(attribution.params.values()) == [0.0, 1.0, 1.0] and attribution.params["c"] == 1.0
    assert attribution.loss == attribution.winner_loss


def test_ties_that_count_together_are_all_kept() -> None:
    """Eight changes, none of which shows above the noise; together they do."""
    names = "abcdefgh"
    attribution, _ = attribute(
        additive(dict.fromkeys(names, 0.02), sigma=0.02),
        dict.fromkeys(names, 1.0),
        dict.fromkeys(names, 0.0),
        space_of(names),
    )
    assert sum(change.is_tie for change in attribution.changes) >= 2
    assert attribution.params == dict.fromkeys(names, 1.0)
    assert "but together they count and are kept" in attribution.note


@pytest.mark.parametrize(("min_gain", "is_kept"), [(0.0137, True), (0.0155, False), (math.inf, False)])
def test_three_ties_that_cost_together_what_is_worth_having_stay(min_gain: float, is_kept: bool) -> None:
    """Three changes of 0.0050, 0.0053 and 0.0051 beside one of 0.3, with a noise of 0.02 that cancels in each mean.

    Alone each lies far inside of the noise, and so do all three: 0.0154 lost without them, give or take 0.10.
    """
    effects = {"a": 0.0050, "b": 0.0053, "c": 0.0051, "d": 0.3}

    def loss(params: Mapping[str, Any], seed: int) -> float:
        made = [name for name in effects if params[name]]
        noise = 0.02 if (len(made) + seed) % 2 else -0.02
        return 3 - sum(effects[name] for name in made) + noise

    winner, base = dict.fromkeys(effects, 1.0), dict.fromkeys(effects, 0.0)
    attribution, _ = attribute(loss, winner, base, space_of("abcd"), SEEDS[:2], min_gain)

    assert {change.path for change in attribution.changes if change.is_tie} == {"a", "b", "c"}
    assert all(change.gain and change.gain[1] < 0 < change.gain[2] for change in attribution.changes if change.is_tie)
    if is_kept:
        assert attribution.params == winner
        assert attribution.note == (
            "no gain could be measured for b, c, a alone, but together they count and are kept (without them the loss "
            "is 0.0154 higher)"
        )
    else:
        assert attribution.params == {**base, "d": 1.0}
        assert attribution.loss - attribution.winner_loss == pytest.approx(0.0154)


def test_a_change_without_which_it_does_not_train_is_kept() -> None:
    def fragile(params: Mapping[str, Any], seed: int) -> float | None:
        return None if params == {"a": 0.0, "b": 1.0, "c": 1.0} else 3 - params["b"] * 0.1

    attribution, _ = attribute(fragile, dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.0), space_of("abc"))
    changes = {change.path: change for change in attribution.changes}
    assert changes["a"].harm is None and not changes["a"].is_tie
    assert (changes["b"].is_tie, changes["c"].is_tie) == (False, True)
    assert attribution.params == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_a_setting_comes_after_its_condition_and_leaves_with_it() -> None:
    """Dropout exists only with many experts: without them the arm has none, and the path makes experts first."""
    space = space_of((), experts={"choices": [4, 16]}, dropout={"low": 0.0, "high": 1.0, "when": {"experts": 16}})
    arms = []

    def loss(params: Mapping[str, Any], seed: int) -> float:
        arms.append(dict(params))
        return 3 - 0.01 * (params["experts"] == 16) - params.get("dropout", 0)

    attribution, _ = attribute(loss, {"experts": 16, "dropout": 0.5}, {"experts": 4, "dropout": 0.0}, space)
    assert [change.path for change in attribution.changes] == ["experts", "dropout"]
    assert {"experts": 4} in arms and {"experts": 4, "dropout": 0.5} not in arms
    assert [change.gain[0] for change in attribution.changes if change.gain] == pytest.approx([0.01, 0.5])


def test_a_setting_comes_after_the_condition_of_its_condition() -> None:
    """The last of three is worth what the others cost. Without them it could not be made at all."""
    space = space_of(
        (),
        first={"choices": [1, 2]},
        second={"choices": [1, 2], "when": {"first": 2}},
        third={"low": 0.0, "high": 1.0, "when": {"second": 2}},
    )

    def loss(params: Mapping[str, Any], seed: int) -> float:
        return 3 + 0.3 * (params["first"] == 2) + 0.1 * (params.get("second") == 2) - params.get("third", 0)

    base = {"first": 1, "second": 1, "third": 0.0}
    attribution, _ = attribute(loss, {"first": 2, "second": 2, "third": 0.5}, base, space)
    assert [change.path for change in attribution.changes] == ["first", "second", "third"]
    assert [change.gain[0] for change in attribution.changes if change.gain] == pytest.approx([-0.3, -0.1, 0.5])


@pytest.mark.parametrize("effect", [0.1, 0.05])
def test_three_settings_without_effect_are_ties_and_real_ones_are_not(effect: float) -> None:
    """100 studies whose noise between seeds is 0.01: at most 5 in 100 may call one of three idle settings a change."""
    base, winner = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 1.0)
    wrong = missed = 0
    for draw in range(100):
        attribution, _ = attribute(additive({"b": effect, "d": effect}, 0.01, draw), winner, base, space_of(NAMES))
        ties = {change.path for change in attribution.changes if change.is_tie}
        wrong += not {"a", "c", "e"} <= ties
        missed += bool({"b", "d"} & ties)
    assert wrong <= 5 + 3 * (100 * 0.05 * 0.95) ** 0.5
    assert missed == 0


def test_intervals_are_those_of_the_analysis_of_variance() -> None:
    """The least-squares fit of arm and seed effects, done independently."""
    losses = np.array([[3.0, 3.2, 2.9], [2.8, 3.1, 2.6], [2.9, 3.15, 2.85], [2.5, 2.95, 2.4]])
    arms = [frozenset({("x", index)}) for index in range(4)]
    blocks = Blocks({arm: dict(zip(SEEDS, row, strict=True)) for arm, row in zip(arms, losses, strict=True)}, SEEDS, 2)
    design = np.zeros((12, 6))
    for index, (arm, seed) in enumerate(itertools.product(range(4), range(3))):
        design[index, arm] = 1
        if seed:
            design[index, 3 + seed] = 1
    _, rest, rank, _ = np.linalg.lstsq(design, losses.ravel(), rcond=None)
    sigma = (rest[0] / (12 - rank)) ** 0.5
    half = stats.t.ppf(1 - 0.05 / 4, 6) * sigma * (2 / 3) ** 0.5
    expected = losses[0].mean() - losses[3].mean()
    assert blocks.difference(arms[0], arms[3]) == pytest.approx((expected, expected - half, expected + half))
    assert blocks.difference(arms[0], frozenset()) is None


def test_the_gain_of_what_is_promoted_has_an_interval_of_its_own() -> None:
    """Two changes on two seeds, of which one is a tie: the rest of each loss is 0.001 off, in turns."""

    def loss(params: Mapping[str, Any], seed: int) -> float:
        noise = 0.001 if (sum(map(bool, params.values())) + seed) % 2 else -0.001
        return 3 - 0.3 * params["a"] + noise

    attribution, _ = attribute(loss, {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}, space_of("ab"), SEEDS[:2])
    assert attribution.params == {"a": 1.0, "b": 0.0}
    # Four arms of two seeds: what is left of each loss is 0.001, so sigma is sqrt(8 x 0.001^2 / 3), with freedom 3.
    half = stats.t.ppf(0.975, 3) * (8 * 0.001**2 / 3) ** 0.5 * (2 / 2) ** 0.5
    assert attribution.gain == pytest.approx((0.3, 0.3 - half, 0.3 + half))


def test_it_reads_what_it_wrote() -> None:
    attribution, _ = attribute(
        additive({"a": 0.1, "b": 0.3}, 0.01), dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.0), space_of("abc")
    )
    assert Attribution.from_json(json.loads(json.dumps(attribution.to_json()))) == attribution
