"""Figure cards of many studies: what each gained, and default and best of those that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from autotune.core.statistics import INTERVAL
from reports.figures.figure_cards import Card, Drawn, draw_card, require
from reports.figures.scale import digits
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, base_figure
from reports.formats import label, plain
from reports.sentences.study_row import StudyRow

# Colour and symbol of a gain by its verdict.
_VERDICT_STYLE = {
    "better": (GREEN, "circle"),
    "no clear gain": (GREY, "square"),
    "inconclusive": (ORANGE, "diamond-open"),
}


def draw_cards(rows: Sequence[StudyRow], kinds: Sequence[str], meanings: Mapping[str, str]) -> list[Card]:
    """Return the figure cards: the gains, and default and best of all studies that can be compared.

    Args:
        rows: The studies, oldest first.
        kinds: For each row the letter of what its result means.
        meanings: What each letter stands for, in words.
    """
    cards = [draw_card("gains", "What each study gained", partial(_gains, rows))]

    for letter, words in meanings.items():
        comparable = [row for row, kind in zip(rows, kinds, strict=True) if kind == letter]
        if len(comparable) < 2:
            continue

        title = "From default to best"
        if len(meanings) > 1:
            title += f": {letter}"
        cards.append(draw_card(f"results-{letter.lower()}", title, partial(_losses, comparable, words)))

    return cards


def _gains(rows: Sequence[StudyRow]) -> Drawn:
    judged = [row for row in rows if row.gain_frac is not None]
    require(len(judged) > 0, "no study has a verdict yet")

    sentence = (
        "By how much each study's best settings are better than its own default, measured on fresh seeds. The bar "
        f"is the {INTERVAL}: where it lies right of the line at zero, chance alone is an unlikely explanation. A study "
        "has no bar where some of its winner's changes are not promoted, since the interval is that of all of them."
    )
    table = pd.DataFrame(
        [(row.date, row.name, row.verdict, row.gain_frac, row.gain_low_frac, row.gain_high_frac) for row in judged],
        columns=["date", "study", "verdict", "gain", "low", "high"],
    )
    return sentence, [_gains_figure(judged)], table


def _gains_figure(rows: Sequence[StudyRow]) -> go.Figure:
    """Draw each study's gain in per cent of what its default came to, with its interval."""
    figure = base_figure("gain (% of the default's)", "", height=130 + 44 * len(rows))

    for verdict in dict.fromkeys(row.verdict for row in rows):
        places = [place for place, row in enumerate(rows) if row.verdict == verdict]
        _add_gains(figure, rows, places, verdict)

    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    _name_rows(figure, rows)
    return figure


def _add_gains(figure: go.Figure, rows: Sequence[StudyRow], places: Sequence[int], verdict: str) -> None:
    colour, symbol = _VERDICT_STYLE.get(verdict, (VERMILLION, "x"))
    judged = [rows[place] for place in places]

    figure.add_scatter(
        x=[_percent(row.gain_frac) for row in judged], y=list(places), mode="markers", name=verdict,
        marker={"color": colour, "symbol": symbol, "size": 12},
        error_x={
            "type": "data", "symmetric": False, "color": colour, "thickness": 2.5,
            "array": [_distance_percent(row.gain_high_frac, row.gain_frac) for row in judged],
            "arrayminus": [_distance_percent(row.gain_frac, row.gain_low_frac) for row in judged],
        },
        text=[f"{label(row.name)}: {label(row.name_of_metric)} {label(row.measured)}" for row in judged],
        hovertemplate="%{text}, %{x:.1f} %<extra></extra>",
    )  # fmt: skip


def _percent(frac: float | None) -> float | None:
    if frac is None:
        return None
    return 100 * frac


def _distance_percent(high_frac: float | None, low_frac: float | None) -> float:
    if high_frac is None or low_frac is None:
        return 0.0
    return 100 * (high_frac - low_frac)


def _losses(rows: Sequence[StudyRow], words: str) -> Drawn:
    known = [row for row in rows if row.before is not None]
    require(len(known) > 0, "no study has finished training its default")

    better = "right" if known[0].metric.maximize else "left"
    sentence = (
        f"Studies whose results can be compared ({words}). Further {better} is better; a line joins default and best."
    )
    table = pd.DataFrame(
        [(row.date, row.name, row.before, row.after) for row in known], columns=["date", "study", "default", "best"]
    )
    return sentence, [_losses_figure(known)], table


def _losses_figure(rows: Sequence[StudyRow]) -> go.Figure:
    """Draw what default and winner of each study came to, joined by a line."""
    metric = rows[0].metric
    figure = base_figure(label(metric.title), "", height=130 + 44 * len(rows))
    _add_joining_lines(figure, rows)

    marks = [
        ("default", [row.before for row in rows], ORANGE, "diamond"),
        ("best", [row.after for row in rows], BLUE, "circle"),
    ]
    for name, values, colour, symbol in marks:
        figure.add_scatter(
            x=values, y=list(range(len(rows))), mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 12},
            hovertemplate=f"{name} %{{x:{digits(metric)}}}<extra></extra>",
        )  # fmt: skip
    _name_rows(figure, rows)
    return figure


def _add_joining_lines(figure: go.Figure, rows: Sequence[StudyRow]) -> None:
    x: list[float | None] = []
    y: list[int | None] = []

    for place, row in enumerate(rows):
        if row.after is not None:
            # The gap after each pair keeps the studies' lines apart.
            x += [row.before, row.after, None]
            y += [place, place, None]

    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": GREY, "width": 2}, showlegend=False, hoverinfo="skip"
    )  # fmt: skip


def _name_rows(figure: go.Figure, rows: Sequence[StudyRow]) -> None:
    names = [f"{label(plain(row.name, 28))}<br>{label(row.date)}" for row in rows]
    # A number of its own for each study: two may have the same name and day.
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5])
