"""The one page of a study: self-contained, without a network request, and written even when a part of it fails."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from autotune.core.files import write_text
from autotune.promotion.next_step import next_step
from autotune.promotion.selection import best_settings
from autotune.store.study_record import StudyRecord
from reports.exports import curves_csv, provenance, report_json, trials_csv
from reports.figures import pictures
from reports.figures.figure_cards import Card
from reports.figures.study_cards import draw_cards
from reports.formats import as_sentence, moment, plain
from reports.markdown import report_markdown
from reports.sentences import attribution
from reports.sentences.before_after import before_after, compared_name, doubt
from reports.sentences.changes import change_words, changes_tried, setting_changes
from reports.sentences.cost import cost, cost_rows
from reports.sentences.failures import failures
from reports.sentences.first_screen import first_screen
from reports.sentences.full_run import full_run_lines
from reports.sentences.glossary import glossary
from reports.sentences.health import health_checks
from reports.sentences.how_sure import how_sure
from reports.sentences.machines import machine_head, machine_rows
from reports.sentences.next_step import expected_words
from reports.sentences.steering import steering_lines
from reports.sentences.trial_rows import trial_rows
from reports.sentences.verdict import verdict_summary

_TEMPLATES = Path(__file__).parent / "templates"
# The whole plotly.js takes a browser several times as long to read as its part for lines, marks and bars.
PLOTLY = Path(__file__).parent / "vendor" / "plotly-basic.min.js"
_MAX_EVENTS = 300
_SAMPLE_CHARACTERS = 4_000


def write_report(record: StudyRecord, folder: Path, renewed_s: int = 0) -> Path:
    """Write index.html, report.md, report.json, trials.csv and curves.csv, each atomically.

    Args:
        record: The study: running, failed or done.
        folder: Where they go; made if missing.
        renewed_s: Seconds after which an open page loads itself anew, since it is written again; 0 for never.

    Returns:
        The path of index.html.
    """
    files: dict[str, Callable[[StudyRecord], str]] = {
        "index.html": lambda record: study_page(record, renewed_s),
        "report.md": report_markdown,
        "report.json": report_json,
        "trials.csv": trials_csv,
        "curves.csv": curves_csv,
    }
    for name, content in files.items():
        write_text(folder / name, writable(content(record)))

    return folder / "index.html"


def add_pictures(record: StudyRecord, folder: Path) -> str:
    """Write every figure as a PNG file beside the report, and report.md anew with them in it.

    Args:
        record: The study.
        folder: Of the report; made if missing.

    Returns:
        "" when they were written, else why there are none and what to do.
    """
    cards = draw_cards(record)
    named = pictures.of_cards(cards)
    if not named:
        return "no pictures: there is nothing to draw yet"
    skipped = pictures.write_pictures(named, folder)
    if skipped:
        return skipped

    shown = []
    for card in cards:
        if card.plots:
            shown.append((card.title, card.sentence, list(pictures.of_cards([card]))))

    write_text(folder / "report.md", writable(report_markdown(record, shown)))
    return ""


def writable(text: str) -> str:
    """Return a text that UTF-8 can hold: half a surrogate pair, from a damaged log, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def summary_lines(record: StudyRecord) -> list[str]:
    """Return the console's last lines: verdict, before and after, how sure, what to do next.

    Args:
        record: The study.
    """
    said = verdict_summary(record)
    lines = [f"{said.icon} {said.word}: {said.sentence}"]

    measures = []
    for row in before_after(record):
        if row.before is not None and row.after is not None:
            measures.append(f"{row.name.lower()} {row.before_text} → {row.after_text}")
    if measures:
        name = compared_name(record)
        whose = "" if name == "best" else f"{name}: "
        lines.append(whose + "; ".join(measures))

    lines.append(" ".join(how_sure(record)[:2]))
    left = attribution.left_line(record)
    if left:
        lines.append(left)
    lines += full_run_lines(record)[:2]

    step = next_step(record)
    lines.append(step.what)
    expected = expected_words(step, record.attributes.metric)
    takes = f" ({expected})" if expected else ""
    lines.append(f"next: {step.command}{takes}")

    return [plain(line) for line in lines]


def study_page(record: StudyRecord, renewed_s: int = 0) -> str:
    """Return the page as HTML.

    Args:
        record: The study.
        renewed_s: Seconds after which an open page loads itself anew; 0 for never.
    """
    step = next_step(record)
    # Where nothing is promoted, what was tried is worth more than a list of what stays as it is.
    tried = changes_tried(record)
    shown = tried or setting_changes(record)

    return render(
        "study.html.j2",
        renewed_s=renewed_s,
        name=plain(record.name),
        title=plain(record.spec.title or record.name),
        verdict_summary=verdict_summary(record),
        compared_name=compared_name(record),
        doubt=doubt(record),
        before_after=before_after(record),
        how_sure=how_sure(record),
        cost_rows=cost_rows(cost(record)),
        machine_head=machine_head(record),
        machine_rows=machine_rows(record),
        next=step,
        expected=expected_words(step, record.attributes.metric),
        changes=[(change, change_words(change)) for change in shown],
        tried=bool(tried),
        left=attribution.left_line(record),
        proven=record.verdict is not None,
        full=full_run_lines(record),
        sample=_sample(record),
        cards=draw_cards(record),
        checks=health_checks(record),
        failures=failures(record),
        steered=steering_lines(record),
        events=_events(record),
        trials=trial_rows(record),
        first_screen=first_screen(record),
        provenance=[(plain(name), plain(value)) for name, value in provenance(record)],
        config=json.dumps(record.spec.base, indent=2, default=str),
        best_config=_best_config(record),
        glossary=glossary(record.attributes.metric),
    )


def _sample(record: StudyRecord) -> str:
    full = record.attributes.full_run
    if full is None:
        return ""

    lines = full.sample[:_SAMPLE_CHARACTERS].splitlines()
    return "\n".join(plain(line, _SAMPLE_CHARACTERS) for line in lines)


def _best_config(record: StudyRecord) -> str:
    best = best_settings(record)
    if best is None or not best.config:
        return ""
    return json.dumps(best.config, indent=2, default=str)


def _events(record: StudyRecord) -> list[tuple[str, str]]:
    latest = record.events[-_MAX_EVENTS:]
    return [(moment(event.get("time")), plain(event.get("message", ""))) for event in latest]


def preparation_page(name: str, progress: str, renewed_s: int = 0) -> str:
    """Return the page of a study whose data is being made ready for the first time, as HTML.

    Args:
        name: The study's name.
        progress: How far that is, in a sentence; "" if it is not known yet.
        renewed_s: Seconds after which an open page loads itself anew; 0 for never.
    """
    return render("preparation.html.j2", [], renewed_s, name=plain(name), progress=plain(progress))


def render(template: str, cards: list[Card], renewed_s: int = 0, **content: Any) -> str:
    """Render a page of the house: style and scripts inlined, everything else escaped.

    Only the two scripts whose hashes the content policy names can run, and no request can leave the page.

    Args:
        template: File name in `templates/`.
        cards: Its figure cards.
        renewed_s: Seconds after which an open page loads itself anew; 0 for never.
        content: What the template needs besides.
    """
    plotly = _asset(PLOTLY)
    script = _asset(_TEMPLATES / "page.js")
    hashes = [f"'sha256-{_digest(text)}'" for text in (plotly, script)]
    has_plots = any(card.plots for card in cards)

    page = _environment().get_template(template)
    return page.render(
        cards=cards,
        renewed_s=renewed_s,
        plot_json=plot_json,
        style=Markup(_asset(_TEMPLATES / "page.css")),
        plotly=Markup(plotly if has_plots else ""),
        script=Markup(script),
        script_hashes=" ".join(hashes),
        **content,
    )


def plot_json(figure: Any) -> Markup:
    """Return a figure as JSON that cannot end the script element it stands in.

    Args:
        figure: A plotly figure.
    """
    text = str(figure.to_json())
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _with_code(words: str) -> Markup:
    """Return words as HTML in which what stands between backticks is code; everything is escaped."""
    parts = words.split("`")
    if len(parts) % 2 == 0:
        return escape(words)

    marked = [Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)]
    return Markup("").join(marked)


@cache
def _asset(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["as_sentence"] = as_sentence
    environment.filters["with_code"] = _with_code
    return environment
