"""Machine-readable twins of the page: report.json, trials.csv, curves.csv."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import pandas as pd

from autotune.core.metric import Metric
from autotune.core.objectives import judged_by, num_values
from autotune.core.own_words import told
from autotune.core.promotion_results import FullRunRecord, Promotion
from autotune.core.records import Verdict
from autotune.core.study_results import Attribution
from autotune.core.text import shortened
from autotune.promotion.next_step import next_step
from autotune.promotion.selection import attribution_of, best_settings, measured_gain
from autotune.store.by_machine import MachineShare, by_machine, classes_of
from autotune.store.study_record import StudyRecord
from reports.sentences.before_after import before_after
from reports.sentences.changes import changes_tried, setting_changes
from reports.sentences.cost import cost
from reports.sentences.failures import failures
from reports.sentences.health import health_checks
from reports.sentences.how_sure import how_sure
from reports.sentences.next_step import expected_words
from reports.sentences.steering import steering_lines
from reports.sentences.verdict import verdict_summary
from reports.tables.curves import curves_table
from reports.tables.finals import finals_runs, finals_table
from reports.tables.fronts import front_table
from reports.tables.in_metric import in_metric
from reports.tables.trials import settings_table, trials_table

# What a trainer reports of the data and the model, as far as it says where the numbers come from.
_FACTS = ("data_hash", "train_tokens", "val_tokens", "num_params", "num_active_params", "tokens_per_step", "dtype")
# Stored provenance that is named from elsewhere.
_NAMED_OTHERWISE = ("study", "spec_hash", "versions", "gpu", "driver")
# A spreadsheet would take a text that begins so for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def report_json(record: StudyRecord) -> str:
    """Return what the page says as JSON; a number that is not finite is null.

    Args:
        record: The study.
    """
    metric = record.attributes.metric
    gave = attribution_of(record)
    best = best_settings(record)
    measured = measured_gain(record)

    promoted = None
    if measured is not None:
        promoted = asdict(measured) | {"gain": measured.gain}

    front = None
    if num_values(record.spec.objective) > 1:
        front = in_metric(front_table(record), metric).to_dict("records")

    step = next_step(record)
    next_words = {
        "sentence": step.what,
        "command": step.command,
        "expected": expected_words(step, metric),
    }

    content = {
        "study": record.name,
        "title": record.spec.title,
        "metric": metric.to_json(),
        "headline": verdict_summary(record),
        "verdict": _stored(record.verdict, metric),
        "before_after": before_after(record),
        "how_sure": how_sure(record),
        "steered": steering_lines(record),
        "cost": cost(record),
        "machines": [_machine(share, metric) for share in by_machine(record)],
        "next": next_words,
        "changes": setting_changes(record),
        "changes_tried": changes_tried(record),
        "promoted": told(promoted, metric),
        "left_at_default": best.left_at_default if best else {},
        "attribution": _stored(gave, metric),
        "finals": in_metric(finals_table(finals_runs(record)), metric).to_dict("records"),
        "health": health_checks(record),
        "failures": failures(record),
        "front": front,
        "promotion": _stored(record.attributes.promotion, metric),
        "full": _stored(record.attributes.full_run, metric),
        "provenance": dict(provenance(record)),
        "config": record.spec.base,
    }
    return json.dumps(_jsonable(content), indent=2, allow_nan=False) + "\n"


def _machine(share: MachineShare, metric: Metric) -> dict[str, Any]:
    losses = {name: getattr(share, name) for name in ("median_loss", "best_loss")}
    return asdict(share) | {name: None if loss is None else metric.value(loss) for name, loss in losses.items()}


def _stored(value: Verdict | Attribution | Promotion | FullRunRecord | None, metric: Metric) -> Any:
    if value is None:
        return None
    return told(value.to_json(), metric)


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _jsonable(asdict(value))
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
    metric = record.attributes.metric
    seeds = sorted({run.seed for run in record.finals})
    known: dict[str, Any] = {
        "study": record.name,
        "created": record.created_at,
        "trainer": record.spec.trainer,
        "spec hash": record.spec.fingerprint(),
        "seed of the search": record.spec.seed,
        "seeds of the finals": ", ".join(map(str, seeds)),
        "objective": judged_by(record.spec.objective, metric),
        f"{metric.budget_unit} per trial": record.spec.budget.tokens,
        "sampler": record.spec.sampler.name,
        "pruner": record.spec.pruner.name,
    }

    facts = _reported_facts(record)
    for name in _FACTS:
        known[name.replace("_", " ")] = facts.get(name)

    hardware = record.hardware
    known |= {"device": _devices(record), "driver": hardware.get("driver_version")}

    stored = record.attributes.provenance
    if isinstance(stored, Mapping):
        for key, value in stored.items():
            if key not in _NAMED_OTHERWISE:
                known[str(key).replace("_", " ")] = value

        versions = stored.get("versions")
        if isinstance(versions, Mapping):
            for key, value in versions.items():
                known[f"{key} version"] = value

    known["not in reach"] = _logs_elsewhere(record)
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]


def _devices(record: StudyRecord) -> str | None:
    """Return what was trained on: all kinds of devices where machines with several shared the study."""
    hardware = record.hardware
    classes = classes_of(by_machine(record))
    return "; ".join(classes) or hardware.get("name") or hardware.get("cpu_name")


def _logs_elsewhere(record: StudyRecord) -> str:
    """Return which logs of a study that machines share lie on others alone; "" if all are here."""
    if not record.spec.storage:
        return ""

    numbers: dict[str, list[str]] = {}
    for kind, trainings in (("trial", record.trials), ("final", record.finals)):
        for training in trainings:
            result = training.result
            if result is not None and result.host and result.log and not (record.run.root / result.log).is_file():
                numbers.setdefault(result.host, []).append(f"{kind} {training.number}")

    place = "and were not put into the shared place" if record.spec.artifacts else "(artifacts names no shared place)"
    told = [f"the logs of {shortened(', '.join(names), 200)} lie on {host} {place}" for host, names in numbers.items()]
    return "; ".join(told)


def _reported_facts(record: StudyRecord) -> Mapping[str, Any]:
    """Return what the trainer said of the first trial that it said anything of."""
    for trial in record.trials:
        if trial.result is not None and trial.result.facts:
            return trial.result.facts
    return {}


def trials_csv(record: StudyRecord) -> str:
    """Return `trials_frame` as CSV.

    Args:
        record: The study.
    """
    return _csv(trials_frame(record))


def trials_frame(record: StudyRecord) -> pd.DataFrame:
    """Return every search trial with its settings, a row each.

    Args:
        record: The study.

    Returns:
        The columns of `trials_table` as the trainer calls them, and one for each setting that is searched, under
        "params_" and its dotted path.
    """
    settings = settings_table(record).add_prefix("params_")
    return in_metric(trials_table(record), record.attributes.metric).join(settings, on="number")


def curves_csv(record: StudyRecord) -> str:
    """Return `curves_frame` as CSV.

    Args:
        record: The study.
    """
    return _csv(curves_frame(record))


def curves_frame(record: StudyRecord) -> pd.DataFrame:
    """Return every evaluation of the search and the finals, a row each.

    Args:
        record: The study.

    Returns:
        The columns of `curves_table` as the trainer calls them, after one that says where a training belongs: queue,
        "search" or "finals".
    """
    search = curves_table(record.trials)
    finals = curves_table(record.finals)

    filled = []
    if len(search):
        filled.append(search.assign(queue="search"))
    if len(finals):
        filled.append(finals.assign(queue="finals"))
    if not filled:
        # No row, but the head of the file.
        filled = [search.assign(queue="")]

    table = pd.concat(filled, ignore_index=True)
    others = [name for name in table.columns if name != "queue"]
    return in_metric(table[["queue", *others]], record.attributes.metric)


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
    if text.startswith(_FORMULA_STARTS):
        return f"'{text}"
    return text
