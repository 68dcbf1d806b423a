"""From a trial's settings to a longer run's: the power law, what brackets say of it, and what follows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.promotion_results import Bracket, LengthChange, Promotion
from autotune.promotion import horizon
from autotune.promotion.horizon import bracket_tokens, changes, longest, scaling

FACTORS = (0.5, 1.0, 2.0)
LOG2 = math.log(2)


def valley(best: float, tokens: int, curvature: float = 0.04, factors: tuple[float, ...] = FACTORS) -> Bracket:
    """Losses of a parabola over the logarithm of the factor."""
    losses = tuple(4.0 + curvature * (math.log(factor) - math.log(best)) ** 2 for factor in factors)
    return Bracket(tokens, factors, losses)


# --- what a bracket says ---


def at_own_length(bracket: Bracket, sigma: float) -> horizon.Scaling:
    """The best factor at the trial's length, where the exponent does not matter."""
    return scaling(1_000, 1_000, (bracket,), sigma)


@pytest.mark.parametrize("best", [0.4, 0.8, 1.0, 1.7])
def test_the_lowest_point_of_a_sharp_valley(best: float) -> None:
    assert at_own_length(valley(best, 1_000), 1e-4).factor == pytest.approx(best, rel=0.02)


def test_losses_within_noise_leave_what_was_known() -> None:
    before, after = scaling(1_000, 1_000), at_own_length(valley(1.5, 1_000), sigma=1.0)
    assert after.factor == pytest.approx(before.factor, rel=0.02)
    assert after.high / after.low == pytest.approx(before.high / before.low, rel=0.02)


def test_losses_that_still_fall_at_the_end_say_that_the_best_lies_beyond_it() -> None:
    assert at_own_length(Bracket(1_000, FACTORS, (4.0, 4.3, 4.9)), 0.003).factor < 0.6


def test_one_that_did_not_finish_leaves_what_the_others_say() -> None:
    assert at_own_length(Bracket(1_000, FACTORS, (4.1, 4.0, None)), 0.003).factor > 1.0
    assert at_own_length(Bracket(1_000, FACTORS, (4.1, None, None)), 0.003) == scaling(1_000, 1_000)


def test_a_bracket_counts_for_as_much_as_it_is_sure() -> None:
    """Against the lowest points of ten thousand draws of the three losses, weighed by the normal's own conditioning."""
    import numpy as np

    sigma, exact = 0.002, valley(0.8, 1_000)
    losses = np.array(exact.losses, dtype=float) + np.random.default_rng(0).normal(0, sigma, (10_000, 3))
    # The vertex through three points at equal distances h: h / 2 (l- - l+) / (l- - 2 l0 + l+).
    low, middle, high = losses.T
    variance = (LOG2 / 2 * (low - high) / (low - 2 * middle + high)).var()
    scaled = at_own_length(exact, sigma)
    assert math.log(scaled.factor) == pytest.approx(math.log(0.8) * 0.4**2 / (0.4**2 + variance), abs=0.02)
    spread = math.sqrt(variance * 0.4**2 / (variance + 0.4**2))
    assert math.log(scaled.high / scaled.low) == pytest.approx(2 * 1.96 * spread, rel=0.1)


# --- the factor ---


def test_without_brackets_it_is_the_published_power() -> None:
    scaled = scaling(1_000, 8_000)
    assert scaled.factor == pytest.approx(8**-0.32)
    assert (scaled.exponent, scaled.exponent_sd) == (pytest.approx(0.32), pytest.approx(0.25, rel=0.01))
    spread = 1.96 * math.hypot(0.4, 0.25 * math.log(8))
    assert scaled.high / scaled.factor == pytest.approx(math.exp(spread), rel=0.01)
    assert scaled.factor / scaled.low == pytest.approx(math.exp(spread), rel=0.01)


def test_two_sharp_brackets_say_it_all() -> None:
    """The best is 0.9 of the trial's at its length and 0.6 at three times that: so 0.4 at nine times."""
    brackets = (valley(0.9, 1_000, 40.0), valley(0.6, 3_000, 40.0))
    scaled = scaling(1_000, 9_000, brackets, sigma=1e-4)
    assert scaled.factor == pytest.approx(0.9 * (0.6 / 0.9) ** 2, rel=0.01)
    assert scaled.exponent == pytest.approx(math.log(0.9 / 0.6) / math.log(3), rel=0.01)
    assert scaled.exponent_sd < 0.01


@given(
    best=st.floats(0.1, 9.0), tokens=st.integers(2_000, 100_000), sigma=st.floats(0.0, 9.0), scale=st.floats(0.001, 9.0)
)
def test_whatever_was_measured_there_is_an_answer(best: float, tokens: int, sigma: float, scale: float) -> None:
    scaled = scaling(1_000, tokens, (valley(best, 1_000, scale), valley(best, 2_000, scale)), sigma)
    assert 0 < scaled.low <= scaled.factor <= scaled.high < math.inf
    assert abs(scaled.exponent - 0.32) <= 4 * 0.25 + 1e-9


def test_brackets_lie_at_the_trials_length_and_half_way_to_the_run() -> None:
    assert bracket_tokens(1_000, 7_999) == ()
    assert bracket_tokens(1_000, 9_000) == (1_000, 3_000)
    assert bracket_tokens(1_000, 100_000) == (1_000, 10_000)


def test_the_longest_run_leaves_time_for_its_brackets() -> None:
    assert longest(1_000, 9_000 + 3 * 3_000 + 3 * 1_000) == pytest.approx(9_000, abs=1)
    assert longest(1_000, 15_000) == 15_000  # 8 trials' length with brackets would take 19.5
    assert longest(1_000, 500) == 500


@given(trial=st.integers(100, 10_000), times=st.floats(0.1, 1000))
def test_a_longest_run_with_its_brackets_fits(trial: int, times: float) -> None:
    tokens = int(trial * times)
    run = longest(trial, tokens)
    assert run <= tokens
    if run < tokens:
        assert run + 3 * sum(bracket_tokens(trial, run)) <= tokens + 3


# --- what changes ---

CONFIG = {"lr": 0.02, "more": {"wd": 0.1, "warmup": 0.1}, "decay": 0.2}
RULES = {"lr": "learning_rate", "more.wd": "weight_decay", "more.warmup": "warmup_frac"}


def test_the_rules() -> None:
    changed = changes(CONFIG, RULES, 1_000, 8_000, 0.5)  # type: ignore[arg-type]
    assert [(each.path, each.before, each.after) for each in changed] == [
        ("lr", 0.02, 0.01),
        ("more.wd", 0.1, 0.2),
        ("more.warmup", 0.1, 0.0125),
    ]
    assert changed[0].why == "learning rate x 0.50"


def test_warm_up_has_a_floor_and_is_never_lengthened_by_it() -> None:
    long = changes(CONFIG, {"more.warmup": "warmup_frac"}, 1_000, 100_000, 0.5)
    assert [each.after for each in long] == [0.01]
    short = changes({"warmup": 0.004}, {"warmup": "warmup_frac"}, 1_000, 100_000, 0.5)
    assert short == []


def test_nothing_changes_at_the_same_length() -> None:
    assert changes(CONFIG, RULES, 1_000, 1_000, 1.0) == []  # type: ignore[arg-type]


def test_no_weight_decay_stays_none() -> None:
    assert changes({"wd": 0.0}, {"wd": "weight_decay"}, 1_000, 8_000, 0.5) == []


# --- what is stored and said ---

PROMOTED = Promotion(
    4,
    1_000,
    8_000,
    scaling(1_000, 8_000),
    (LengthChange("lr", 0.02, 0.0103, "learning rate x 0.514"),),
    (valley(0.8, 1_000), Bracket(2_828, FACTORS, (4.0, 3.9, None))),
)


def test_a_promotion_survives_storage() -> None:
    import json

    assert Promotion.from_json(json.loads(json.dumps(PROMOTED.to_json()))) == PROMOTED
    as_is = Promotion(4, 1_000, 8_000, None, note="as requested")
    assert Promotion.from_json(json.loads(json.dumps(as_is.to_json()))) == as_is


def test_its_words() -> None:
    assert PROMOTED.describe() == (
        "for a run 8 times as long as a trial: lr 0.02 -> 0.0103 (learning rates x 0.51, 95 % interval 0.14 to 1.86, "
        "by this study's own runs at two lengths)"
    )
    assert Promotion(4, 1_000, 8_000, None, note="as requested").describe() == (
        "the settings are those of trial 4: as requested"
    )


# --- text that is read more than once ---


def test_text_read_once_needs_no_word() -> None:
    assert horizon.repetition(10_000, 10_000, 0.1) == ""
    assert horizon.repetition(0, 10_000, 2.0) == ""  # nobody knows how long the text is


def test_repeated_text_is_said_with_what_it_is_worth() -> None:
    """15.39 (1 - exp(-7 / 15.39)) = 5.62: eight times the same is worth 6.6 times as much fresh text."""
    words = horizon.repetition(1_000, 8_000, 0.5)
    assert "reads its text 8.0 times, and a trial 0.5 times" in words
    assert "worth about 6.6 times as much fresh text" in words
    assert "--tokens 4000" in words


def test_trials_that_read_theirs_as_often_tell_what_wins() -> None:
    words = horizon.repetition(1_000, 3_000, 2.9)
    assert words.startswith("the run reads its text 3.0 times, and so do the trials")
    assert "need not win" not in words and "--tokens" not in words


def test_trials_that_repeated_theirs_say_little_of_a_run_that_does_not() -> None:
    words = horizon.repetition(10_000, 5_000, 4.0)
    assert "0.5 times, and a trial 4.0 times" in words and "worth" not in words
