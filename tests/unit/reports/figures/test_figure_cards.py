"""The frame of a card: its table's cells, and what it says when a figure cannot be drawn."""

import math
from datetime import datetime

import pandas as pd
import plotly.graph_objects as go
import pytest

from reports.figures.figure_cards import Drawn, cells, draw_card, require


def test_a_long_table_is_cut_and_the_card_says_by_how_many_rows() -> None:
    figure = go.Figure()
    card = draw_card("key", "Title", lambda: ("Sentence.", [figure], pd.DataFrame({"number": range(130)})))

    assert (card.key, card.title, card.sentence, card.plots) == ("key", "Title", "Sentence.", [figure])
    assert card.columns == ["number"]
    assert len(card.rows) == 100 and card.rows[-1] == ["99"]
    assert (card.cut, card.problem, card.broken) == (30, "", False)


def test_a_lack_of_data_is_no_fault() -> None:
    def draw() -> Drawn:
        require(True, "nothing is missing here")
        require(False, "no trial has finished")
        raise AssertionError("it went on")

    card = draw_card("key", "Title", draw)
    assert (card.problem, card.broken) == ("Not drawn: no trial has finished.", False)


@pytest.mark.parametrize(
    ("error", "problem"),
    [(ValueError("torn"), "Could not draw: torn"), (ZeroDivisionError(), "Could not draw: ZeroDivisionError")],
)
def test_a_fault_of_the_report_is_told_in_the_card(error: Exception, problem: str) -> None:
    def draw() -> Drawn:
        raise error

    card = draw_card("key", "Title", draw)
    assert (card.problem, card.broken) == (problem, True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (pd.NaT, "–"),
        (0.25, "0.25"),
        (3.0, "3"),
        (12345.6, "12,346"),
        (0.0, "0"),
        (0.00003, "3e-05"),
        (-0.00025, "-0.00025"),
        (0.0123456, "0.01235"),
        (datetime(2026, 1, 6, 6, 50, 59), "2026-01-06 06:50"),
        ("a\nb", "a b"),
    ],
)
def test_cells_are_text(value: object, text: str) -> None:
    assert cells(pd.DataFrame({"value": pd.Series([value], dtype=object)})) == [[text]]
