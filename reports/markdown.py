"""The page's words as Markdown: report.md."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.core.objectives import num_values
from autotune.promotion.next_step import next_step
from autotune.promotion.selection import attribution_of
from autotune.store.study_record import StudyRecord
from reports.exports import provenance
from reports.figures.figure_cards import cells
from reports.formats import as_sentence, markdown, plain
from reports.sentences import attribution, promotion
from reports.sentences.before_after import before_after, compared_name
from reports.sentences.changes import change_words, changes_tried, setting_changes
from reports.sentences.cost import cost, cost_rows
from reports.sentences.failures import failures
from reports.sentences.full_run import full_run_lines
from reports.sentences.health import health_checks
from reports.sentences.how_sure import how_sure
from reports.sentences.machines import machine_head, machine_rows
from reports.sentences.next_step import expected_words
from reports.sentences.pareto import front_words
from reports.sentences.steering import steering_lines
from reports.sentences.verdict import verdict_summary
from reports.tables.attribution import attribution_table, attribution_words
from reports.tables.fronts import front_table
from reports.tables.in_metric import in_metric
from reports.tables.promotion import bracket_table

# Letters of a figure's sentences at most.
_LONG = 1_500


def report_markdown(record: StudyRecord, pictures: Sequence[tuple[str, str, Sequence[str]]] = ()) -> str:
    """Return the page's words as Markdown, for a terminal or a repository.

    Args:
        record: The study.
        pictures: Title, sentence and files of each figure card that it shows.
    """
    lines = [
        *_verdict_lines(record),
        *_section("How sure", _bullets(how_sure(record))),
        *_section("Cost", _table(("what", "how much"), cost_rows(cost(record)))),
        *_machine_lines(record),
        *_next_lines(record),
        *_long_run_lines(record),
        *_full_run_lines(record),
        *_front_lines(record),
        *_change_lines(record),
        *_section(attribution.TITLE, _which_change(record)),
        *_picture_lines(pictures),
        *_check_lines(record),
        *_steering_lines(record),
        *_failure_lines(record),
        *_section("Where the numbers come from", _table(("what", "value"), provenance(record))),
    ]
    return "\n".join(lines)


def _verdict_lines(record: StudyRecord) -> list[str]:
    said = verdict_summary(record)
    lines = [f"# {markdown(record.spec.title or record.name)}", ""]
    lines += [f"**{said.icon} {said.word}**: {markdown(said.sentence)}", ""]
    if said.reason:
        lines += [markdown(as_sentence(said.reason)), ""]

    rows = [(row.name, row.before_text, row.after_text, row.change) for row in before_after(record)]
    return lines + _table(("", "default", compared_name(record), "change"), rows)


def _machine_lines(record: StudyRecord) -> list[str]:
    rows = machine_rows(record)
    return _section("By machine", _table(machine_head(record), rows)) if rows else []


def _next_lines(record: StudyRecord) -> list[str]:
    step = next_step(record)
    lines = [markdown(step.what), "", f"    {step.command}", ""]

    expected = expected_words(step, record.attributes.metric)
    if expected:
        lines += [markdown(expected), ""]

    return _section("Next", lines)


def _long_run_lines(record: StudyRecord) -> list[str]:
    long_run = record.attributes.promotion
    if long_run is None:
        return []

    lines = _bullets(promotion.sentences(long_run, record.attributes.metric))
    losses = in_metric(bracket_table(long_run), record.attributes.metric)
    if len(losses):
        lines += _table(list(losses.columns), cells(losses))

    return _section(promotion.TITLE, lines)


def _full_run_lines(record: StudyRecord) -> list[str]:
    lines = [markdown(line, _LONG) for line in full_run_lines(record)]
    return _section("The full run", [*lines, ""]) if lines else []


def _front_lines(record: StudyRecord) -> list[str]:
    if num_values(record.spec.objective) <= 1:
        return []

    front = in_metric(front_table(record), record.attributes.metric)
    heads = [plain(name) for name in front.columns]
    words = markdown(front_words(record), _LONG)
    return _section("Quality against training time", [words, "", *_table(heads, cells(front))])


def _change_lines(record: StudyRecord) -> list[str]:
    changed = [(change.path, change_words(change), change.explanation) for change in setting_changes(record)]
    lines = _table(("setting", "default → best", "what it does"), changed)

    tried = [f"{change.path} {change_words(change)}" for change in changes_tried(record)]
    if tried:
        lines += [markdown(f"The winner of the search, not promoted, changed {', '.join(tried)}.", _LONG), ""]

    left = attribution.left_line(record)
    if left:
        lines += [markdown(left), ""]

    return _section("What changed", lines)


def _which_change(record: StudyRecord) -> list[str]:
    gave = attribution_of(record)
    if gave is None:
        return [markdown(f"Not known: {attribution.why_none(record)}."), ""]

    table = attribution_words(attribution_table(gave), record.attributes.metric)
    said = _bullets(attribution.sentences(gave, record.attributes.metric))
    return [*said, *_table(list(table.columns), table.to_numpy().tolist())]


def _picture_lines(pictures: Sequence[tuple[str, str, Sequence[str]]]) -> list[str]:
    if not pictures:
        return []

    lines = []
    for title, sentence, files in pictures:
        links = [f"![{title}]({file})" for file in files]
        lines += [f"### {title}", "", markdown(sentence, _LONG), "", *links, ""]

    return _section("The night in pictures", lines)


def _check_lines(record: StudyRecord) -> list[str]:
    checks = [(check.status, check.name, f"{check.finding} {check.action}") for check in health_checks(record)]
    return _section("Health checks", _table(("", "check", "finding"), checks))


def _steering_lines(record: StudyRecord) -> list[str]:
    lines = steering_lines(record)
    return _section("What you changed as it ran", _bullets(lines)) if lines else []


def _failure_lines(record: StudyRecord) -> list[str]:
    failed = [(item.status, str(item.trials), f"{item.meaning} {item.action}") for item in failures(record)]
    lines = _table(("what", "trials", "why"), failed) if failed else ["Nothing.", ""]
    return _section("What failed", lines)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines]


def _bullets(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {markdown(sentence, _LONG)}" for sentence in sentences), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    heads = [markdown(name) for name in head]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        written = [markdown(cell) for cell in row]
        lines.append(f"| {' | '.join(written)} |")

    return [*lines, ""]
