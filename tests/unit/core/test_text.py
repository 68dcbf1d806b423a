"""Words for people, of values and moments of any size."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from autotune.core.text import done_by, of_seeds, reason, short_number, shortened, shown, speed, time_of_day


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true"),
        (3, "3"),
        (10**5000, "a number of about 5,001 digits"),
        ("night", "'night'"),
        ([1, [2, [3, [4, [5]]]]], "[1, [2, [3, [...]]]]"),
    ],
    ids=["true", "three", "long", "text", "nested"],
)
def test_values(value: object, words: str) -> None:
    assert shown(value) == words
    assert len(shown("x" * 10_000)) <= 120


def test_texts_on_one_line() -> None:
    assert shortened("one\n two", 20) == "one two"
    assert shortened("x" * 50 + "y" * 50, 15) == "xxxxx ... yyyyy"


def test_an_error_without_words() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert reason(OddError()) == "OddError"
    assert reason(ValueError("a\nb")) == "ValueError: a b"


def test_moments_that_no_calendar_has() -> None:
    assert done_by(1e15, datetime(2026, 1, 5, tzinfo=UTC)) == "done in 31,688,088 years"
    assert time_of_day(1e15) == "no date that a calendar has"


def test_a_loss_is_of_one_seed_or_the_mean_of_several() -> None:
    assert (of_seeds(1), of_seeds(3)) == ("one seed", "mean of 3 seeds")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (0.031234, "0.0312"), (1.0, "1"), (0.9996, "0.9996"), (1 - 2**-40, "0.99999999999909051"),
     (1.004, "1.004"), (999.9, "999.9"), (-1000.5, "-1000.5"), (2e6, "2e+06"), (float("inf"), "inf")],
)  # fmt: skip
def test_a_short_number_is_no_other(value: float, words: str) -> None:
    assert short_number(value) == words


def test_a_speed_just_below_the_next_letter() -> None:
    assert [speed(each) for each in (12.34, 12_345, 999_900, 2.5e6)] == [
        "12.3 tokens/s", "12.3k tokens/s", "1M tokens/s", "2.5M tokens/s",
    ]  # fmt: skip
