"""From a trial's settings to a longer run's: the power law, what brackets say of it, and what follows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import horizon
from autotune.horizon import Bracket, Change, Promotion, bracket_tokens, changes, longest, scaling

FACTORS = (0.5, 1.0, 2.0)
LOG2 = math.log(2)


def valley(best: float, tokens: int, curvature: float = 0.04, factors: tuple[float, ...] = FACTORS) -> Bracket:
    """Losses of a parabola over the logarithm of the factor."""
    losses = tuple(4.0 + curvature * (math.log(factor) - math.log(best)) ** 2 for factor in factors)
    return Bracket(tokens, factors, losses)


# --- where a bracket's best lies ---


def test_the_vertex_of_three_losses() -> None:
    found = valley(0.8, 1_000).best(sigma=0.003)
    assert found is not None
    assert found[0] == pytest.approx(math.log(0.8))


def test_its_error_is_that_of_repeated_measurements() -> None:
    """Against ten thousand draws of the three losses."""
    import numpy as np

    sigma, exact = 0.002, valley(0.8, 1_000)
    draws = np.random.default_rng(0).normal(0, sigma, (10_000, 3))
    losses = np.array(exact.losses, dtype=float) + draws
    # The vertex through three points at equal distances h: h / 2 (l- - l+) / (l- - 2 l0 + l+).
    low, middle, high = losses.T
    vertices = LOG2 / 2 * (low - high) / (low - 2 * middle + high)
    found = exact.best(sigma)
    assert found is not None
    assert found[1] == pytest.approx(vertices.std(), rel=0.1)


def test_losses_within_noise_say_nothing() -> None:
    assert valley(1.0, 1_000).best(sigma=0.01) is None
    assert valley(1.0, 1_000).best(sigma=0.003) is not None


def test_beyond_the_bracket_its_end_stands_for_the_best() -> None:
    assert valley(0.3, 1_000).best(0.001) == (pytest.approx(-LOG2), pytest.approx(LOG2))
    assert Bracket(1_000, FACTORS, (4.0, 4.3, 4.4)).best(0.001) == (pytest.approx(-LOG2), pytest.approx(LOG2))


def test_one_that_did_not_finish_leaves_the_better_of_the_others() -> None:
    assert Bracket(1_000, FACTORS, (4.1, 4.0, None)).best(0.001) == (0.0, pytest.approx(LOG2))
    assert Bracket(1_000, FACTORS, (4.1, None, None)).best(0.001) is None


# --- the factor ---


def test_without_brackets_it_is_the_published_power() -> None:
    found = scaling(1_000, 8_000)
    assert found.factor == pytest.approx(8**-0.32)
    assert (found.exponent, found.exponent_sd) == (pytest.approx(0.32), pytest.approx(0.15))
    spread = 1.96 * math.hypot(0.4, 0.15 * math.log(8))
    assert found.high / found.factor == pytest.approx(math.exp(spread))
    assert found.factor / found.low == pytest.approx(math.exp(spread))


def test_two_sharp_brackets_say_it_all() -> None:
    """The best is 0.9 of the trial's at its length and 0.6 at three times that: so 0.4 at nine times."""
    brackets = (valley(0.9, 1_000, 40.0), valley(0.6, 3_000, 40.0))
    found = scaling(1_000, 9_000, brackets, sigma=1e-4)
    assert found.factor == pytest.approx(0.9 * (0.6 / 0.9) ** 2, rel=0.01)
    assert found.exponent == pytest.approx(math.log(0.9 / 0.6) / math.log(3), rel=0.01)
    assert found.exponent_sd < 0.01


def test_a_bracket_counts_for_as_much_as_it_is_sure() -> None:
    """One observation y = m - b ln 3 with variance s^2, worked out by the normal's own conditioning."""
    bracket, sigma = valley(0.5, 3_000, factors=(0.35, 0.7, 1.4)), 0.003
    found = bracket.best(sigma)
    assert found is not None
    at, variance = math.log(3), found[1] ** 2
    gain = (0.4**2 + 0.15**2 * at * math.log(8)) / (0.4**2 + (0.15 * at) ** 2 + variance)
    expected = -0.32 * math.log(8) + gain * (found[0] + 0.32 * at)
    assert scaling(1_000, 8_000, (bracket,), sigma).factor == pytest.approx(math.exp(expected))


@given(
    best=st.floats(0.3, 3.0), tokens=st.integers(2_000, 100_000), sigma=st.floats(1e-4, 0.02), scale=st.floats(0.01, 1)
)
def test_evidence_never_makes_it_less_sure(best: float, tokens: int, sigma: float, scale: float) -> None:
    before = scaling(1_000, tokens)
    after = scaling(1_000, tokens, (valley(best, 1_000, scale), valley(best, 2_000, scale)), sigma)
    assert after.low <= after.factor <= after.high
    assert after.high / after.low <= before.high / before.low * (1 + 1e-9)
    assert after.exponent_sd <= before.exponent_sd * (1 + 1e-9)


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
    found = changes(CONFIG, RULES, 1_000, 8_000, 0.5)  # type: ignore[arg-type]
    assert [(each.path, each.before, each.after) for each in found] == [
        ("lr", 0.02, 0.01),
        ("more.wd", 0.1, 0.2),
        ("more.warmup", 0.1, 0.0125),
    ]
    assert found[0].why == "learning rate x 0.5"


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
    (Change("lr", 0.02, 0.0103, "learning rate x 0.514"),),
    (valley(0.8, 1_000), Bracket(2_828, FACTORS, (4.0, 3.9, None))),
)


def test_a_promotion_survives_storage() -> None:
    import json

    assert Promotion.from_json(json.loads(json.dumps(PROMOTED.to_json()))) == PROMOTED
    as_is = Promotion(4, 1_000, 8_000, None, note="as was asked for")
    assert Promotion.from_json(json.loads(json.dumps(as_is.to_json()))) == as_is


def test_its_words() -> None:
    assert PROMOTED.describe() == (
        "for a run 8 times as long as a trial: lr 0.02 -> 0.0103 (learning rates x 0.51, 95 % interval 0.14 to 1.86, "
        "by this study's own runs at two lengths)"
    )
    assert Promotion(4, 1_000, 8_000, None, note="as was asked for").describe() == (
        "the settings are those of trial 4: as was asked for"
    )


# --- text that is read more than once ---


def test_text_read_once_needs_no_word() -> None:
    assert horizon.repetition(10_000, 10_000, 0.1) == ""
    assert horizon.repetition(0, 10_000, 2.0) == ""  # nobody knows how long the text is


def test_repeated_text_is_said_with_what_it_is_worth() -> None:
    """15.39 (1 - exp(-7 / 15.39)) = 5.62: eight times the same is worth 6.6 times as much fresh text."""
    words = horizon.repetition(1_000, 8_000, 0.5)
    assert "reads its text 8.0 times, a trial 0.5 times" in words
    assert "worth about as much as 6.6 times as much fresh text" in words
    assert "--tokens 4000" in words


def test_trials_that_read_theirs_as_often_tell_what_wins() -> None:
    words = horizon.repetition(1_000, 3_000, 2.9)
    assert words.startswith("the run reads its text 3.0 times, and so do the trials")
    assert "need not win" not in words and "--tokens" not in words


def test_trials_that_repeated_theirs_say_little_of_a_run_that_does_not() -> None:
    words = horizon.repetition(10_000, 5_000, 4.0)
    assert "0.5 times, a trial 4.0 times" in words and "worth" not in words
