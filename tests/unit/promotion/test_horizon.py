"""From a trial's settings to a longer run's: how batch and learning rates move, and what follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.promotion_results import Bracket, LengthChange, Promotion, Scaling
from autotune.promotion.horizon import FACTORS, Horizon, Multiples, batch_worth

CONFIG = {"lr": 0.02, "steps": 3, "more": {"wd": 0.1, "warmup": 0.1, "beta2": 0.95}, "decay": 0.2}
RATE: Any = {"lr": "learning_rate"}
BOTH: Any = {"lr": "learning_rate", "steps": "batch"}


def horizon(rules: Any = BOTH, **more: Any) -> Horizon:
    return Horizon(CONFIG, rules, 1_000, **more)


def bracket(setting: Any, best: float, tokens: int, factors: Sequence[float], batch: float = 1.0) -> Bracket:
    """Losses of a sharp parabola over the logarithm of the factor."""
    losses = tuple(4.0 + (math.log(factor) - math.log(best)) ** 2 for factor in factors)
    return Bracket(tokens, tuple(factors), losses, setting, batch)


# --- the laws ---


def test_a_batch_that_stays_lowers_the_learning_rate() -> None:
    assert horizon(RATE).batch(16_000) is None
    assert horizon(RATE).expected(16_000) == Multiples(1.0, pytest.approx(16**-0.25))


def test_the_batch_grows_and_the_learning_rate_follows_it() -> None:
    """16 to the power of 0.55 is 4.59; three steps become fourteen, which are 4.67 times as many."""
    scaled = horizon().batch(16_000)
    assert scaled is not None
    assert (scaled.factor, scaled.exponent) == (pytest.approx(16**0.55), pytest.approx(0.55))
    moved = horizon().expected(16_000)
    assert moved.batch == 14 / 3
    assert moved.rate == pytest.approx((14 / 3) ** 0.7 * 16**-0.25)


def test_the_interval_is_as_wide_as_what_is_not_known() -> None:
    scaled = horizon().batch(16_000)
    assert scaled is not None
    spread = 1.96 * math.hypot(0.4, 0.12 * math.log(16))
    assert scaled.high / scaled.factor == pytest.approx(math.exp(spread), rel=0.01)


def test_repeated_text_has_laws_of_its_own_which_are_less_sure() -> None:
    once, repeated = horizon().batch(16_000), horizon(repeats=True).batch(16_000)
    assert once is not None and repeated is not None
    assert repeated.factor == pytest.approx(once.factor) and repeated.exponent_sd > 2 * once.exponent_sd


def test_where_the_smallest_batch_won_a_smaller_one_is_expected() -> None:
    """The best one of the trial's length is expected at 0.37 times it: at four times the length, at 0.79 times."""
    scaled = horizon(has_least_batch=True).batch(4_000)
    assert scaled is not None and scaled.factor == pytest.approx(math.exp(-1.0) * 4**0.55)
    assert horizon(has_least_batch=True).expected(4_000).batch == 2 / 3


def test_the_best_trials_say_where_the_batch_starts_from() -> None:
    scaled = horizon(best_batch=0.5).batch(16_000)
    assert scaled is not None and scaled.factor == pytest.approx(0.5 * 16**0.55)


def test_a_shorter_run_has_a_smaller_batch_and_never_none() -> None:
    assert horizon().expected(100).batch == 1 / 3
    assert horizon().expected(1).batch == 1 / 3


def test_a_batch_of_no_whole_number_moves_freely() -> None:
    moved = Horizon({"lr": 1.0, "steps": 3.0}, BOTH, 1_000).expected(16_000)
    assert moved.batch == pytest.approx(16**0.55)


@given(most=st.floats(1.0, 6.0), multiple=st.floats(0.01, 100.0))
def test_what_does_not_fit_is_never_chosen(most: float, multiple: float) -> None:
    whole = horizon(most_batch=most).whole_batch(multiple)
    assert 1 / 3 <= whole <= most and round(whole * 3) == pytest.approx(whole * 3)


# --- what brackets say ---


def test_brackets_of_the_batch_move_it() -> None:
    """The best batch is 1.2 times the trial's at its length, and 3 times at four times that: 7.5 at sixteen times."""
    brackets = (bracket("batch", 1.2, 1_000, (2 / 3, 1.0, 2.0)), bracket("batch", 3.0, 4_000, (1.0, 2.0, 4.0)))
    scaled = horizon(repeats=True).batch(16_000, brackets, sigma=1e-4)
    assert scaled is not None and scaled.factor == pytest.approx(1.2 * 2.5**2, rel=0.03)


def test_brackets_of_the_learning_rate_are_read_beside_their_batch() -> None:
    """Beside 2 and 4 times the batch 1.1 and 1.6 are best: without what follows the batch, 0.677 and 0.606."""
    factors = (0.8, 1.6, 3.2)
    brackets = (
        bracket("learning_rate", 1.1, 1_000, factors, batch=2.0),
        bracket("learning_rate", 1.6, 4_000, factors, batch=4.0),
    )
    scaled = horizon(repeats=True).rate(16_000, 8.0, brackets, sigma=1e-4)
    kept = [1.1 / 2**0.7, 1.6 / 4**0.7]
    assert scaled.factor == pytest.approx(8**0.7 * kept[0] * (kept[1] / kept[0]) ** 2, rel=0.03)


def test_neither_is_moved_by_the_others_brackets() -> None:
    of_batch = (bracket("batch", 3.0, 1_000, (1.0, 2.0, 4.0)),)
    of_rate = (bracket("learning_rate", 3.0, 1_000, FACTORS),)
    assert horizon().rate(16_000, 2.0, of_batch) == horizon().rate(16_000, 2.0)
    assert horizon().batch(16_000, of_rate) == horizon().batch(16_000)


def test_where_a_whole_run_forgets_by_itself_rates_stay() -> None:
    """A trainer that finds its decay for each run of repeated text; one that reads its text once has none."""
    config, rules = {"lr": 0.02, "steps": 3, "wd": "auto"}, {**BOTH, "wd": "weight_decay"}
    repeated = Horizon(config, rules, 1_000, repeats=True)
    assert repeated.rate(16_000, 4.0).factor == pytest.approx(1.0)
    assert repeated.moved("batch", Multiples(1.0, 1.3), 2.0) == Multiples(2.0, 1.3)
    once = Horizon(config, rules, 1_000)
    assert once.rate(16_000, 4.0) == horizon().rate(16_000, 4.0)


def test_a_bracket_trains_a_cross() -> None:
    middle = horizon().expected(4_000)
    assert middle.batch == 2.0  # the power says 2.14, which is 6.4 steps
    rates = horizon().arms("learning_rate", middle)
    assert [each.rate / middle.rate for each in rates] == pytest.approx([0.5, 1.0, 2.0])
    assert {each.batch for each in rates} == {2.0}
    batches = horizon().arms("batch", middle)
    assert [each.batch for each in batches] == [1.0, 2.0, 4.0]
    assert [each.rate / middle.rate for each in batches] == pytest.approx([0.5**0.7, 1.0, 2.0**0.7])


def test_of_whole_steps_the_same_ones_are_trained_once() -> None:
    small = Horizon({"lr": 0.02, "steps": 1}, BOTH, 1_000)
    assert [each.batch for each in small.arms("batch", Multiples())] == [1.0, 2.0]
    assert small.moved("batch", Multiples(), 0.5) == Multiples()


# --- what changes ---

RULES: Any = {
    "lr": "learning_rate",
    "steps": "batch",
    "more.wd": "weight_decay",
    "more.warmup": "warmup_frac",
    "more.beta2": "beta2",
}


def test_the_rules() -> None:
    """Decay: 0.1 * 2 / 0.5 over 8 ** 0.473 = 2.674. Half-life in steps: half as many for twice the batch."""
    changed = horizon(RULES).changes(8_000, Multiples(batch=2.0, rate=0.5))
    assert [(each.path, each.before, each.after) for each in changed] == [
        ("lr", 0.02, 0.01),
        ("steps", 3, 6),
        ("more.wd", 0.1, 0.15),
        ("more.warmup", 0.1, 0.0125),
        ("more.beta2", 0.95, 0.9025),
    ]
    assert isinstance(changed[1].after, int)
    assert changed[0].why == "learning rate x 0.50"


def test_warm_up_has_a_floor_and_is_never_lengthened_by_it() -> None:
    rules: Any = {"warmup": "warmup_frac"}
    (change,) = Horizon({"warmup": 0.1}, rules, 1_000).changes(100_000, Multiples())
    assert change.after == 0.01
    assert Horizon({"warmup": 0.004}, rules, 1_000).changes(100_000, Multiples()) == []


def test_a_shorter_run_keeps_the_share_of_its_warm_up() -> None:
    """As many tokens as in the trial would be half of this run, or more than all of it, which no schedule has."""
    rules: Any = {"warmup": "warmup_frac"}
    assert Horizon({"warmup": 0.05}, rules, 1_000).changes(100, Multiples()) == []
    assert Horizon({"warmup": 0.05}, rules, 1_000).changes(10, Multiples()) == []


def test_a_half_life_keeps_its_digits_near_one() -> None:
    """Three digits of 0.99975 would be 1, with which nothing is ever forgotten."""
    rules: Any = {"beta2": "beta2"}
    (shorter,) = Horizon({"beta2": 0.999}, rules, 1_000).changes(1_000, Multiples(batch=0.25))
    assert shorter.after == pytest.approx(0.99975)
    (longer,) = Horizon({"beta2": 0.9999}, rules, 1_000).changes(8_000, Multiples(batch=4.0))
    assert longer.after == pytest.approx(0.9996)


def test_a_large_whole_batch_that_stays_is_no_change() -> None:
    rules: Any = {"steps": "batch"}
    assert Horizon({"steps": 1_024}, rules, 1_000).changes(8_000, Multiples()) == []
    (change,) = Horizon({"steps": 1_024}, rules, 1_000).changes(8_000, Multiples(batch=1_025 / 1_024))
    assert change.after == 1_025


def test_nothing_changes_at_the_same_length() -> None:
    assert horizon(RULES).changes(1_000, Multiples()) == []
    assert horizon(RULES).expected(1_000) == Multiples(1.0, pytest.approx(1.0))


def test_what_stays_the_same_in_three_digits_is_no_change() -> None:
    """Where the batch moves so that learning rates stay, a page would say 0.0935 -> 0.0935."""
    assert Horizon({"lr": 0.09350701}, RATE, 1_000).changes(8_000, Multiples(1.0, 1.0)) == []


def test_a_beta_close_to_one_stays_below_it() -> None:
    """0.9999 ** 2 is 0.99980001, and three digits would make 1 of both."""
    (change,) = Horizon({"beta": 0.9999}, {"beta": "beta2"}, 1_000).changes(8_000, Multiples(2.0, 1.0))
    assert (change.before, change.after) == (0.9999, 0.9998)


def test_a_large_batch_that_stays_is_no_change() -> None:
    assert Horizon({"batch": 1025}, {"batch": "batch"}, 1_000).changes(8_000, Multiples(1.0, 1.0)) == []


def test_no_weight_decay_stays_none() -> None:
    assert Horizon({"wd": 0.0}, {"wd": "weight_decay"}, 1_000).changes(8_000, Multiples(1.0, 0.5)) == []


def test_a_weight_decay_that_the_trainer_finds_for_each_run_is_left_to_it() -> None:
    assert Horizon({"wd": "auto"}, {"wd": "weight_decay"}, 1_000).changes(8_000, Multiples(1.0, 0.5)) == []


def test_a_learning_rate_of_a_whole_number_stays_a_fraction() -> None:
    (change,) = Horizon({"lr": 1}, RATE, 1_000).changes(8_000, Multiples(1.0, 0.5))
    assert change.after == 0.5


def test_what_another_batch_is_worth() -> None:
    """A factor of e: half a per cent in a flat valley, 2.6 % in a steep one."""
    assert batch_worth(math.e) == (pytest.approx(0.005), pytest.approx(0.026))
    assert batch_worth(1.0) == (0.0, 0.0)


# --- what is stored and said ---

PROMOTED = Promotion(
    4,
    1_000,
    8_000,
    Scaling(0.51, 0.14, 1.86, -0.25, 0.2),
    (LengthChange("lr", 0.02, 0.0103, "learning rate x 0.514"),),
    (bracket("learning_rate", 0.8, 1_000, FACTORS), Bracket(2_828, FACTORS, (4.0, 3.9, None), "batch")),
    batch=Scaling(3.0, 1.2, 8.0, 0.55, 0.12),
    batch_worth=(0.006, 0.03),
)


def test_a_promotion_survives_storage() -> None:
    import json

    assert Promotion.from_json(json.loads(json.dumps(PROMOTED.to_json()))) == PROMOTED
    as_is = Promotion(4, 1_000, 8_000, None, note="as requested")
    assert Promotion.from_json(json.loads(json.dumps(as_is.to_json()))) == as_is


def test_one_that_was_stored_before_batches_moved_can_be_read() -> None:
    stored = PROMOTED.to_json()
    del stored["batch"], stored["batch_worth"]
    for each in stored["brackets"]:
        del each["setting"], each["batch"]
    found = Promotion.from_json(stored)
    assert (found.batch, found.batch_worth, found.brackets[1].setting) == (None, None, "learning_rate")


def test_its_words() -> None:
    assert PROMOTED.describe() == (
        "for a run 8 times as long as a trial: lr 0.02 -> 0.0103 (batch x 3.00, 95 % interval 1.20 to 8.00, learning "
        "rates x 0.51, 95 % interval 0.14 to 1.86, by this study's own runs at two lengths)"
    )
    assert Promotion(4, 1_000, 8_000, None, note="as requested").describe() == (
        "the settings are those of trial 4: as requested"
    )
