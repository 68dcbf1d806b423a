"""All studies of a folder in the order of time: a page and a Markdown section, as a project keeps its history."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import plotly.graph_objects as go

from autotune.core.errors import UserError
from autotune.core.files import write_text
from autotune.core.objectives import judged_by
from autotune.store.study_record import StudyRecord, read_study
from reports.figures.pictures import of_cards
from reports.figures.timeline_cards import draw_cards
from reports.formats import as_sentence, count, markdown, plain, tokens
from reports.page import render, writable
from reports.sentences.study_row import StudyRow, name_of_metrics, names_of_further, study_row
from reports.tables.comparable import data_hash, what_must_match

# The Markdown section stands between these in a README, so that a later one can replace it.
BEGIN = "<!-- timeline -->"
END = "<!-- end of timeline -->"


@dataclass(frozen=True)
class Timeline:
    """The studies of a folder, oldest first.

    Args:
        rows: A row per study.
        kinds: For each row the letter of what its result means; results can be compared where letters are equal.
        meanings: What each letter stands for, in words.
        unreadable: Names of studies that could not be read, and why.
    """

    rows: Sequence[StudyRow]
    kinds: Sequence[str]
    meanings: Mapping[str, str]
    unreadable: Mapping[str, str] = field(default_factory=dict)


def read_timeline(runs: Path, storage_url: str = "") -> Timeline:
    """Read every study of a folder; one that cannot be read costs only its own line.

    Args:
        runs: Folder of the run directories.
        storage_url: The shared database of the studies that have one, as the user names it.

    Raises:
        UserError: If there is no study that can be read.
    """
    records = []
    unreadable = {}

    for root in sorted(path.parent for path in runs.glob("*/spec.json")):
        try:
            records.append(read_study(root, storage_url))
        except Exception as error:  # noqa: BLE001 - a damaged study must not hide the others
            unreadable[plain(root.name)] = plain(error) or type(error).__name__

    if not records:
        reasons = "; ".join(f"{name}: {why}" for name, why in unreadable.items())
        because = f" can be read ({reasons})" if reasons else ""
        raise UserError(f"no study in {runs}{because}; `autotune run` makes one")

    return timeline(records, unreadable)


def timeline(records: Sequence[StudyRecord], unreadable: Mapping[str, str] | None = None) -> Timeline:
    """Return the studies oldest first, each with the letter of what its result means.

    Args:
        records: The studies.
        unreadable: Names of those that could not be read, and why.
    """
    ordered = sorted(records, key=lambda record: record.created_at)
    letters: dict[tuple[str, ...], str] = {}
    meanings: dict[str, str] = {}
    kinds = []

    for record in ordered:
        meaning = tuple(str(read(record)) for read in what_must_match().values())
        if meaning not in letters:
            letter = _letter(len(letters))
            letters[meaning] = letter
            meanings[letter] = _meaning_in_words(record)
        kinds.append(letters[meaning])

    rows = [study_row(record) for record in ordered]

    return Timeline(rows, kinds, meanings, unreadable or {})


def _letter(place: int) -> str:
    """Return A, B, ..., Z, AA, AB, ..."""
    last = chr(ord("A") + place % 26)
    if place < 26:
        return last
    return _letter(place // 26 - 1) + last


def _meaning_in_words(record: StudyRecord) -> str:
    spec, metric = record.spec, record.attributes.metric
    kind = "text" if metric.of_text else "data"
    named = f"{kind} that the trainer does not name"
    data = data_hash(record)
    if data:
        named = f"{kind} {data[:8]}"
    elif metric.of_text:
        named = f"a {named}"

    length = tokens(spec.budget.tokens, metric.budget_unit)
    return plain(f"{length} a trial, {named}, {judged_by(spec.objective, metric)}, {spec.trainer}")


def heads(timeline: Timeline) -> list[str]:
    """Return the heads of the table's columns."""
    judged = name_of_metrics(timeline.rows)
    return ["date", "study", "key change", judged, "change", *names_of_further(timeline.rows), "how sure", "group"]


def _table_cells(timeline: Timeline) -> list[list[str]]:
    """Return the table's cells: a row per study, with the columns of `heads`."""
    is_mixed = len({row.name_of_metric for row in timeline.rows}) > 1
    rows = []
    for row, kind in zip(timeline.rows, timeline.kinds, strict=True):
        measured = f"{row.name_of_metric} {row.measured}" if is_mixed else row.measured
        further = [row.further.get(name, "–") for name in names_of_further(timeline.rows)]
        rows.append([row.date, row.name, row.key_change, measured, row.moved, *further, row.sure, kind])
    return rows


def write_timeline(timeline: Timeline, folder: Path) -> dict[str, go.Figure]:
    """Write the page, atomically.

    Args:
        timeline: The studies.
        folder: Where index.html goes; made if missing.

    Returns:
        Its figures by file name, for `reports.figures.pictures.write_pictures`.
    """
    cards = draw_cards(timeline.rows, timeline.kinds, timeline.meanings)
    page = render(
        "timeline.html.j2",
        cards,
        heads=heads(timeline),
        judged=_judged(timeline),
        rows=_table_cells(timeline),
        timeline=timeline,
    )
    write_text(folder / "index.html", writable(page))
    return of_cards(cards)


def timeline_markdown(timeline: Timeline, pictures: Sequence[str] = ()) -> str:
    """Return the timeline as a Markdown section.

    Args:
        timeline: The studies.
        pictures: Paths of PNG files that it shows.
    """
    lines = [BEGIN, "## Timeline", ""]

    names = [markdown(name) for name in heads(timeline)]
    lines.append("| " + " | ".join(names) + " |")
    lines.append("|" + " --- |" * len(names))
    for row in _table_cells(timeline):
        escaped = [markdown(cell) for cell in row]
        lines.append("| " + " | ".join(escaped) + " |")

    lines += ["", "Results can be compared within a group:", ""]
    for letter, words in timeline.meanings.items():
        lines.append(f"- {letter}: {markdown(words)}")
    for name, why in timeline.unreadable.items():
        lines.append(f"- {markdown(name)} could not be read: {markdown(why)}")

    for path in pictures:
        # A folder's name may hold what ends a link, or a "#" or "?" that means something else in it.
        lines += ["", f"![{Path(path).stem}]({quote(os.fsencode(path))})"]

    return "\n".join([*lines, END, ""])


def put_into(text: str, section: str) -> str:
    """Return a text with the section in place of its earlier one, or at its end when it has none.

    Args:
        text: A README.
        section: As `timeline_markdown` gives it.
    """
    start = text.find(BEGIN)
    end = text.find(END)
    newline = "\r\n" if "\r\n" in text else "\n"
    section = section.replace("\n", newline)

    if 0 <= start <= end:
        return text[:start] + section.rstrip() + text[end + len(END) :]
    if not text.strip():
        return section

    return f"{text.rstrip()}{newline}{newline}{section}"


def summary(timeline: Timeline) -> list[str]:
    """Return the console's lines: one for each study, and how many there are.

    Args:
        timeline: The studies.
    """
    lines = [f"{row.date} {row.name}: {row.sentence}" for row in timeline.rows]
    lines += [f"{name}: could not be read: {why}" for name, why in timeline.unreadable.items()]
    number_of_studies = count(len(timeline.rows), "study", "studies")
    number_of_kinds = count(len(timeline.meanings), "group")
    return [*lines, f"{number_of_studies} in {number_of_kinds}; results can be compared within a group"]


def _judged(timeline: Timeline) -> str:
    """Return what the column of the metric shows, for someone who has never seen it."""
    metrics = {(row.metric.of_text, row.name_of_metric): row.metric for row in timeline.rows}
    said = []
    for (of_text, name), metric in metrics.items():
        surprise = " is how surprised the model is by unseen text" if of_text else ""
        said.append(f"{name}{surprise}: {metric.better} is better")
    return as_sentence("; ".join(said))
