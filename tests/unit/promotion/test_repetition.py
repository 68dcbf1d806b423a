"""What is said of text that is read more than once, and from when on overfitting counts."""

from __future__ import annotations

from autotune.promotion.repetition import repeats, repetition


def test_up_to_four_readings_text_counts_as_fresh() -> None:
    assert not repeats(1_000, 4_000) and repeats(1_000, 4_001)
    assert not repeats(0, 10**9)  # nobody knows how long the text is


def test_text_read_once_needs_no_word() -> None:
    assert repetition(10_000, 10_000, 0.1) == ""
    assert repetition(0, 10_000, 2.0) == ""  # nobody knows how long the text is


def test_repeated_text_is_said_with_what_it_is_worth() -> None:
    """15.39 (1 - exp(-7 / 15.39)) = 5.62: eight times the same is worth 6.6 times as much fresh text."""
    words = repetition(1_000, 8_000, 0.5)
    assert "reads its text 8.0 times, and a trial 0.5 times" in words
    assert "worth about 6.6 times as much fresh text" in words
    assert words.endswith("More text would be better")


def test_trials_that_read_theirs_as_often_tell_what_wins() -> None:
    words = repetition(1_000, 3_000, 2.9)
    assert words.startswith("the run reads its text 3.0 times, and so do the trials")
    assert "need not win" not in words and "--tokens" not in words


def test_trials_that_repeated_theirs_say_little_of_a_run_that_does_not() -> None:
    words = repetition(10_000, 5_000, 4.0)
    assert "0.5 times, and a trial 4.0 times" in words and "worth" not in words
