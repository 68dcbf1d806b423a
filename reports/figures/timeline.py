"""All studies of a folder in the order of time: a page and a Markdown section, as a project keeps its history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from autotune.core.errors import UserError
from autotune.core.files import write_text
from autotune.store.study_store import StudyRecord, read_study
from reports import studies
from reports.figures.figure_cards import Card, Drawn, NothingToDrawError, draw_card
from reports.figures.pictures import of_cards
from reports.figures.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, base_figure
from reports.formats import count, label, markdown, plain, tokens
from reports.page import render, writable
from reports.studies import StudyRow

HEADS = ("date", "study", "key change", "loss", "change", "perplexity", "accuracy", "how sure", "group")
WORD_STYLE = {"better": (GREEN, "circle"), "no clear gain": (GREY, "square"), "inconclusive": (ORANGE, "diamond-open")}
# The Markdown stands between these in a README, so that it can be put there again.
BEGIN, END = "<!-- timeline -->", "<!-- end of timeline -->"


@dataclass(frozen=True)
class Timeline:
    """The studies of a folder, oldest first.

    Args:
        rows: A row per study.
        kinds: For each row the letter of what its loss means; losses compare where letters are equal.
        meanings: What each letter stands for, in words.
        unreadable: Names of studies that could not be read, and why.
    """

    rows: Sequence[StudyRow]
    kinds: Sequence[str]
    meanings: Mapping[str, str]
    unreadable: Mapping[str, str] = field(default_factory=dict)


def read_timeline(runs: Path) -> Timeline:
    """Reads every study of a folder; one that cannot be read costs only its own line.

    Args:
        runs: Folder of the run directories.

    Raises:
        UserError: If there is no study.
    """
    records, unreadable = [], {}
    for root in sorted(path.parent for path in runs.glob("*/spec.json")):
        try:
            records.append(read_study(root))
        except Exception as error:  # noqa: BLE001 - a damaged study must not hide the others
            unreadable[plain(root.name)] = plain(error) or type(error).__name__
    if not records:
        why = "; ".join(f"{name}: {reason}" for name, reason in unreadable.items())
        raise UserError(f"no study in {runs}{f' can be read ({why})' if why else ''}; `autotune run` makes one")
    return timeline(records, unreadable)


def timeline(records: Sequence[StudyRecord], unreadable: Mapping[str, str] | None = None) -> Timeline:
    """Returns the studies oldest first, each with the letter of what its loss means.

    Args:
        records: The studies.
        unreadable: Names of those that could not be read, and why.
    """
    ordered = sorted(records, key=lambda record: record.created_at)
    letters: dict[tuple[str, ...], str] = {}
    meanings: dict[str, str] = {}
    kinds = []
    for record in ordered:
        meaning = tuple(str(read(record)) for read in studies.meanings().values())
        if meaning not in letters:
            letters[meaning] = _letter(len(letters))
            meanings[letters[meaning]] = _in_words(record)
        kinds.append(letters[meaning])
    return Timeline([studies.study_row(record) for record in ordered], kinds, meanings, unreadable or {})


def _letter(place: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    return (_letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)


def _in_words(record: StudyRecord) -> str:
    data = studies.data_hash(record)
    text = f"text {data[:8]}" if data else "a text that the trainer does not name"
    return plain(f"{tokens(record.spec.budget.tokens)} a trial, {text}, {record.spec.objective}, {record.spec.trainer}")


def cells(found: Timeline) -> list[list[str]]:
    """Returns the table's cells: `HEADS`."""
    return [
        [row.date, row.name, row.key_change, row.loss, row.moved, row.perplexity, row.accuracy, row.sure, kind]
        for row, kind in zip(found.rows, found.kinds, strict=True)
    ]


def write_timeline(found: Timeline, folder: Path) -> dict[str, go.Figure]:
    """Writes the page, atomically.

    Args:
        found: The studies.
        folder: Where index.html goes; made if missing.

    Returns:
        Its figures by file name, for `reports.figures.pictures.write_pictures`.
    """
    cards = draw_cards(found)
    page = render("timeline.html.j2", cards, heads=HEADS, rows=cells(found), found=found)
    write_text(folder / "index.html", writable(page))
    return of_cards(cards)


def timeline_markdown(found: Timeline, pictures: Sequence[str] = ()) -> str:
    """Returns the timeline as a Markdown section.

    Args:
        found: The studies.
        pictures: Paths of PNG files that it shows.
    """
    lines = [BEGIN, "## Timeline", "", "| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
    lines += ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in cells(found)]
    lines += ["", "Losses can be compared within a group:", ""]
    lines += [f"- {letter}: {markdown(words)}" for letter, words in found.meanings.items()]
    lines += [f"- {markdown(name)} could not be read: {markdown(why)}" for name, why in found.unreadable.items()]
    lines += [line for path in pictures for line in ("", f"![{Path(path).stem}]({path})")]
    return "\n".join([*lines, END, ""])


def put_into(text: str, section: str) -> str:
    """Returns a text with the section in place of its earlier one, or at its end when it has none.

    Args:
        text: A README.
        section: As `timeline_markdown` gives it.
    """
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        return f"{text.rstrip()}\n\n{section}" if text.strip() else section
    return text[:start] + section.rstrip("\n") + text[end + len(END) :]


def draw_cards(found: Timeline) -> list[Card]:
    """Returns the figure cards: the gains, and default and best of all studies that can be compared.

    Args:
        found: The studies.
    """
    cards = [draw_card("gains", "What each study gained", partial(_gains, found))]
    for letter, words in found.meanings.items():
        rows = [row for row, kind in zip(found.rows, found.kinds, strict=True) if kind == letter]
        if len(rows) > 1:
            title = "From default to best" + (f": {letter}" if len(found.meanings) > 1 else "")
            cards.append(draw_card(f"losses-{letter.lower()}", title, partial(_losses, rows, words)))
    return cards


def _gains(found: Timeline) -> Drawn:
    rows = [row for row in found.rows if row.gain_frac is not None]
    if not rows:
        raise NothingToDrawError("no study has a verdict yet")
    sentence = (
        "By how much each study's best settings lowered the loss of its own default, measured on fresh seeds. The bar "
        "is the 95 % interval: where it lies right of the line at zero, chance alone is an unlikely explanation."
    )
    columns = ["date", "study", "verdict", "gain", "low", "high"]
    table = pd.DataFrame(
        [(row.date, row.name, row.verdict, row.gain_frac, row.gain_low_frac, row.gain_high_frac) for row in rows],
        columns=columns,
    )
    return sentence, [gains_figure(rows)], table


def gains_figure(rows: Sequence[StudyRow]) -> go.Figure:
    """Draws each study's gain in per cent of its default's loss, with its interval.

    Args:
        rows: Studies with a known gain, oldest first.
    """
    figure = base_figure("gain (% of the loss)", "", height=130 + 44 * len(rows))
    places = _places(rows)
    for word in dict.fromkeys(row.verdict for row in rows):
        colour, symbol = WORD_STYLE.get(word, (VERMILLION, "x"))
        kept = [(row, place) for row, place in zip(rows, places, strict=True) if row.verdict == word]
        figure.add_scatter(
            x=[_percent(row.gain_frac) for row, _ in kept], y=[place for _, place in kept], mode="markers", name=word,
            marker={"color": colour, "symbol": symbol, "size": 12},
            error_x={
                "type": "data", "symmetric": False, "color": colour, "thickness": 2.5,
                "array": [_reach(row.gain_high_frac, row.gain_frac) for row, _ in kept],
                "arrayminus": [_reach(row.gain_frac, row.gain_low_frac) for row, _ in kept],
            },
            text=[f"{label(row.name)}: {label(row.loss)}" for row, _ in kept],
            hovertemplate="%{text}, %{x:.1f} %<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    return _by_study(figure, rows)


def _losses(rows: Sequence[StudyRow], words: str) -> Drawn:
    known = [row for row in rows if row.before is not None]
    if not known:
        raise NothingToDrawError("no study has finished its default")
    sentence = f"Studies whose losses mean the same ({words}). Further left is better; a line joins default and best."
    table = pd.DataFrame(
        [(row.date, row.name, row.before, row.after) for row in known], columns=["date", "study", "default", "best"]
    )
    return sentence, [losses_figure(known)], table


def losses_figure(rows: Sequence[StudyRow]) -> go.Figure:
    """Draws the default's loss and the winner's of each study, joined by a line.

    Args:
        rows: Studies that can be compared and have a default's loss, oldest first.
    """
    figure = base_figure("loss (nats per token)", "", height=130 + 44 * len(rows))
    places = _places(rows)
    joined = [(row, place) for row, place in zip(rows, places, strict=True) if row.after is not None]
    figure.add_scatter(
        x=[x for row, _ in joined for x in (row.before, row.after, None)],
        y=[y for _, place in joined for y in (place, place, None)],
        mode="lines", line={"color": GREY, "width": 2}, showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    sides: tuple[tuple[str, str, str, Callable[[StudyRow], float | None]], ...] = (
        ("default", ORANGE, "diamond", lambda row: row.before),
        ("best", BLUE, "circle", lambda row: row.after),
    )
    for name, colour, symbol, value in sides:
        figure.add_scatter(
            x=[value(row) for row in rows], y=places, mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 12}, hovertemplate=f"{name} %{{x:.4f}}<extra></extra>",
        )  # fmt: skip
    return _by_study(figure, rows)


def _places(rows: Sequence[StudyRow]) -> list[int]:
    return list(range(len(rows)))


def _by_study(figure: go.Figure, rows: Sequence[StudyRow]) -> go.Figure:
    names = [f"{label(plain(row.name, 28))}<br>{label(row.date)}" for row in rows]
    # A number of its own for each study: two may have the same name and day.
    figure.update_yaxes(tickvals=_places(rows), ticktext=names, range=[len(rows) - 0.5, -0.5])
    return figure


def _percent(frac: float | None) -> float | None:
    return None if frac is None else 100 * frac


def _reach(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else 100 * (high - low)


def summary(found: Timeline) -> list[str]:
    """Returns the console's lines: a study each.

    Args:
        found: The studies.
    """
    lines = [f"{row.date} {row.name}: {row.sentence}" for row in found.rows]
    lines += [f"{name}: could not be read: {why}" for name, why in found.unreadable.items()]
    return [*lines, f"{count(len(found.rows), 'study', 'studies')}, {count(len(found.meanings), 'kind')} of loss"]
