"""Machine-readable exports of the page: report.json, report.md, trials.csv, curves.csv."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from autotune.core.objectives import num_values
from autotune.core.promotion_results import FullRunRecord, Promotion
from autotune.promotion.next_step import next_step
from autotune.promotion.selection import attribution_of, best_settings, measured_gain
from autotune.store.study_store import StudyRecord
from reports import advice, attribution, full_run, promotion, summary, tables
from reports.failures import failures
from reports.figures.figure_cards import cells
from reports.formats import as_sentence, markdown, plain
from reports.health import health_checks
from reports.pareto import front_table, front_words

# Letters of a figure's sentences at most.
_LONG = 1_500
# A spreadsheet would take a text that begins so for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def report_json(record: StudyRecord) -> str:
    """Return what the page says as JSON; a number that is not finite is null.

    Args:
        record: The study.
    """
    gave = attribution_of(record)
    best = best_settings(record)
    measured = measured_gain(record)

    step = next_step(record)
    next_words = {"sentence": step.what, "command": step.command, "expected": advice.expected_words(step)}

    content = {
        "study": record.name,
        "title": record.spec.title,
        "headline": asdict(summary.verdict_summary(record)),
        "verdict": record.verdict.to_json() if record.verdict else None,
        "before_after": [asdict(row) for row in summary.before_after(record)],
        "how_sure": summary.how_sure(record),
        "cost": asdict(summary.cost(record)),
        "next": next_words,
        "changes": [asdict(change) for change in advice.changes(record)],
        "changes_tried": [asdict(change) for change in advice.changes_tried(record)],
        "promoted": asdict(measured) | {"gain": measured.gain} if measured else None,
        "left_at_default": best.left_at_default if best else {},
        "attribution": gave.to_json() if gave else None,
        "finals": tables.finals_table(tables.finals_runs(record)).to_dict("records"),
        "health": [asdict(check) for check in health_checks(record)],
        "failures": [asdict(failure) for failure in failures(record)],
        "front": front_table(record).to_dict("records") if num_values(record.spec.objective) > 1 else None,
        "promotion": _stored(record.attributes.promotion),
        "full": _stored(record.attributes.full_run),
        "provenance": dict(provenance(record)),
        "config": record.spec.base,
    }
    return json.dumps(_jsonable(content), indent=2, allow_nan=False) + "\n"


def _stored(value: Promotion | FullRunRecord | None) -> dict[str, Any] | None:
    return None if value is None else value.to_json()


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def provenance(record: StudyRecord) -> list[tuple[str, str]]:
    """Return where the numbers come from, as names and words.

    Args:
        record: The study.
    """
    known: dict[str, Any] = {
        "study": record.name,
        "created": record.created_at,
        "trainer": record.spec.trainer,
        "spec hash": record.spec.fingerprint(),
        "seed of the search": record.spec.seed,
        "seeds of the finals": ", ".join(str(seed) for seed in sorted({run.seed for run in record.finals})),
        "objective": record.spec.objective,
        "tokens per trial": record.spec.budget.tokens,
        "sampler": record.spec.sampler.name,
        "pruner": record.spec.pruner.name,
    }

    reported = (trial.result.facts for trial in record.trials if trial.result and trial.result.facts)
    facts = next(reported, {})
    names = ("data_hash", "train_tokens", "val_tokens", "num_params", "num_active_params", "tokens_per_step", "dtype")
    known |= {name.replace("_", " "): facts.get(name) for name in names}

    hardware = record.hardware
    known |= {"device": hardware.get("name") or hardware.get("cpu_name"), "driver": hardware.get("driver_version")}

    stored = record.attributes.provenance
    if isinstance(stored, Mapping):
        skipped = ("study", "spec_hash", "versions", "gpu", "driver")
        known |= {str(key).replace("_", " "): value for key, value in stored.items() if key not in skipped}

        versions = stored.get("versions")
        if isinstance(versions, Mapping):
            known |= {f"{key} version": value for key, value in versions.items()}

    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]


def trials_csv(record: StudyRecord) -> str:
    """Return every search trial with its settings as CSV.

    Args:
        record: The study.
    """
    settings = tables.settings_table(record).add_prefix("params_")
    table = tables.trials_table(record).join(settings, on="number")
    return _csv(table)


def curves_csv(record: StudyRecord) -> str:
    """Return every evaluation of the search and the finals as CSV.

    Args:
        record: The study.
    """
    search = tables.curves_table(record.trials)
    finals = tables.curves_table(record.finals)

    filled = [part.assign(queue=queue) for queue, part in (("search", search), ("finals", finals)) if len(part)]
    if not filled:
        # No row, but the head of the file.
        filled = [search.assign(queue="")]

    table = pd.concat(filled, ignore_index=True)
    others = [name for name in table.columns if name != "queue"]
    return _csv(table[["queue", *others]])


def _csv(table: pd.DataFrame) -> str:
    safe = table.copy()
    for name in safe.columns:
        if safe[name].dtype == object or pd.api.types.is_string_dtype(safe[name].dtype):
            safe[name] = safe[name].map(_harmless)

    return safe.rename(columns=_harmless).to_csv(index=False, lineterminator="\n")


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value

    text = value.replace("\0", "\ufffd")
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def report_markdown(record: StudyRecord, pictures: Sequence[tuple[str, str, Sequence[str]]] = ()) -> str:
    """Return the page's words as Markdown, for a terminal or a repository.

    Args:
        record: The study.
        pictures: Title, sentence and files of each figure card that it shows.
    """
    lines = [
        *_verdict_lines(record),
        *_section("How sure", _bullets(summary.how_sure(record))),
        *_section("Cost", _table(("what", "how much"), summary.cost_rows(summary.cost(record)))),
        *_next_lines(record),
        *_long_run_lines(record),
        *_full_run_lines(record),
        *_front_lines(record),
        *_change_lines(record),
        *_section(attribution.TITLE, _which_change(record)),
        *_picture_lines(pictures),
        *_check_lines(record),
        *_failure_lines(record),
        *_section("Where the numbers come from", _table(("what", "value"), provenance(record))),
    ]
    return "\n".join(lines)


def _verdict_lines(record: StudyRecord) -> list[str]:
    said = summary.verdict_summary(record)
    lines = [f"# {markdown(record.spec.title or record.name)}", ""]
    lines += [f"**{said.icon} {said.word}**: {markdown(said.sentence)}", ""]
    if said.reason:
        lines += [markdown(as_sentence(said.reason)), ""]

    rows = [(row.name, row.before_text, row.after_text, row.change) for row in summary.before_after(record)]
    return lines + _table(("", "default", summary.compared_name(record), "change"), rows)


def _next_lines(record: StudyRecord) -> list[str]:
    step = next_step(record)
    lines = [markdown(step.what), "", f"    {step.command}", ""]

    expected = advice.expected_words(step)
    if expected:
        lines += [expected, ""]

    return _section("Next", lines)


def _long_run_lines(record: StudyRecord) -> list[str]:
    long_run = record.attributes.promotion
    if long_run is None:
        return []

    lines = _bullets(promotion.sentences(long_run))
    losses = promotion.losses(long_run)
    if len(losses):
        lines += _table(list(losses.columns), cells(losses))

    return _section(promotion.TITLE, lines)


def _full_run_lines(record: StudyRecord) -> list[str]:
    lines = [markdown(line) for line in full_run.full_run_lines(record)]
    return _section("The full run", [*lines, ""]) if lines else []


def _front_lines(record: StudyRecord) -> list[str]:
    if num_values(record.spec.objective) <= 1:
        return []

    front = front_table(record)
    heads = [plain(name) for name in front.columns]
    words = markdown(front_words(record))
    return _section("Loss against training time", [words, "", *_table(heads, cells(front))])


def _change_lines(record: StudyRecord) -> list[str]:
    changed = [(change.path, advice.change_words(change), change.explanation) for change in advice.changes(record)]
    lines = _table(("setting", "default → best", "what it does"), changed)

    tried = [f"{change.path} {advice.change_words(change)}" for change in advice.changes_tried(record)]
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

    table = attribution.words(attribution.rows(gave))
    said = _bullets(attribution.sentences(gave))
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


def _failure_lines(record: StudyRecord) -> list[str]:
    failed = [(item.status, str(item.trials), f"{item.meaning} {item.action}") for item in failures(record)]
    lines = _table(("what", "trials", "why"), failed) if failed else ["Nothing.", ""]
    return _section("What failed", lines)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines]


def _bullets(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {markdown(sentence)}" for sentence in sentences), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        written = [markdown(cell) for cell in row]
        lines.append(f"| {' | '.join(written)} |")

    return [*lines, ""]
