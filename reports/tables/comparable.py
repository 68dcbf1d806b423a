"""What makes the results of two studies mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from autotune.core.config_paths import flatten
from autotune.store.study_record import StudyRecord

# What decides which held-out tokens are scored and how: two losses are comparable only where all are equal.
_EVALUATION = (
    "data.eval_tokens", "data.val_frac", "data.val_path", "data.tokenizer", "data.vocab_size", "model.seq_len",
)  # fmt: skip


def what_must_match() -> Mapping[str, Callable[[StudyRecord], Any]]:
    """Return what must be equal for two studies' losses to mean the same: its name, and how it is read."""
    readers: dict[str, Callable[[StudyRecord], Any]] = {
        "the trainer": lambda record: record.spec.trainer,
        "the metric": lambda record: record.attributes.metric.describe(),
        "the objective (objective)": lambda record: record.spec.objective,
        "the data (data_hash)": data_hash,
        "the budget (budget.tokens)": lambda record: record.spec.budget.tokens,
        "how often trials read their text": _readings,
    }

    for path in _EVALUATION:
        readers[f"the evaluation ({path})"] = partial(_base_value, path)

    return readers


def mismatches(one: StudyRecord, other: StudyRecord) -> list[str]:
    """Return the names of what makes two studies' losses mean different things; [] where they can be compared."""
    return [name for name, read in what_must_match().items() if str(read(one)) != str(read(other))]


def _readings(record: StudyRecord) -> str:
    plan = record.attributes.plan
    if plan is None or not plan.epochs:
        return "as far as the budget goes"
    return f"{plan.epochs:.3g} times"


def _base_value(path: str, record: StudyRecord) -> Any:
    return flatten(record.spec.base).get(path)


def data_hash(record: StudyRecord) -> str:
    """Return the hash of the training data, or "" when no trainer reported one.

    Args:
        record: The study.
    """
    data_hash = record.attributes.provenance.get("data_hash")
    if data_hash:
        return str(data_hash)

    for trial in record.trials:
        if trial.result is not None and trial.result.facts.get("data_hash"):
            return str(trial.result.facts["data_hash"])
    return ""
