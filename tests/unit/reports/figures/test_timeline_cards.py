"""Gains of many studies, and default and best of those that can be compared."""

from __future__ import annotations

import pytest
import study_builder

from reports.figures import timeline_cards
from reports.sentences.study_row import StudyRow, study_row


def row(name: str, word: str, gain: float) -> StudyRow:
    verdict = study_builder.verdict(
        word, baseline_loss=5.0, winner_loss=5.0 - gain, gain=gain, gain_low=gain - 0.05, gain_high=gain + 0.05
    )
    record = study_builder.study(spec=study_builder.spec(name), created_at="2026-01-01", verdict=verdict)
    return study_row(record)


FIRST = row("first", "better", 0.38)
LONGER = row("longer", "no clear gain", 0.02)
RUNNING = study_row(study_builder.running_study())


def test_studies_are_compared_within_their_group_where_it_has_two() -> None:
    cards = timeline_cards.draw_cards([FIRST, LONGER, RUNNING], ["A", "B", "A"], {"A": "1K tokens", "B": "2K tokens"})

    assert [card.key for card in cards] == ["gains", "results-a"]
    assert cards[1].title == "From default to best: A"
    assert "(1K tokens)" in cards[1].sentence


def test_the_only_group_needs_no_letter() -> None:
    cards = timeline_cards.draw_cards([FIRST, LONGER], ["A", "A"], {"A": "1K tokens"})

    assert cards[1].title == "From default to best"


def test_gains_are_in_percent_of_the_own_default() -> None:
    [card] = timeline_cards.draw_cards([FIRST, RUNNING, LONGER], ["A", "B", "C"], {"A": "a", "B": "b", "C": "c"})
    [figure] = card.plots
    better, tie = figure.data

    assert (better.name, tie.name) == ("better", "no clear gain")
    assert better.x == pytest.approx((7.6,)) and tie.x == pytest.approx((0.4,))
    assert better.error_x.array == pytest.approx((1.0,)) and better.error_x.arrayminus == pytest.approx((1.0,))
    assert better.y == (0,) and tie.y == (1,)
    assert figure.layout.yaxis.ticktext == ("first<br>2026-01-01", "longer<br>2026-01-01")


def test_default_and_best_are_joined_where_both_are_known() -> None:
    cards = timeline_cards.draw_cards([FIRST, RUNNING], ["A", "A"], {"A": "1K tokens"})
    [figure] = cards[1].plots
    joined, default, best = figure.data

    assert joined.x == (5.0, 4.62, None) and joined.y == (0, 0, None)
    assert default.x == (5.0, 5.0) and best.x == (4.62, None)


def test_cards_without_data_say_so() -> None:
    rows = [study_row(study_builder.empty_study())] * 2
    gains, losses = timeline_cards.draw_cards(rows, ["A", "A"], {"A": "1K tokens"})

    assert gains.problem == "Not drawn: no study has a verdict yet."
    assert losses.problem == "Not drawn: no study has finished training its default."
