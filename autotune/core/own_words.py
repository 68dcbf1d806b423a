"""Names and signs of what is stored of a study, as its trainer has them.

Inside the project a metric is a loss, and lower is better. What is written for programs passes through `told`, a table
through `reports/tables/in_metric.py`, a figure's axis through `reports/figures/scale.py`; a sentence asks the `Metric`
itself. Nothing else turns a sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autotune.core.metric import Metric

# The metric's own number stands under these names.
LOSSES = (
    "loss", "last_loss", "val_loss", "rung_loss", "final_loss", "baseline_loss", "winner_loss", "promoted_loss",
    "search_loss", "losses",
)  # fmt: skip
OF_TEXT = ("val_accuracy", "val_bpb", "num_params", "num_active_params", "skipped_steps", "epochs")
"""What this project's own trainer reports beside it; of others, what is empty is left out."""
_LENGTHS = ("tokens", "tokens_seen", "last_tokens", "budget_tokens", "trial_tokens", "end_tokens", "tokens_per_s")
_FOREIGN = ("baseline_metrics", "winner_metrics", "metrics", "config", "params", "facts", "metric")
"""What lies under these names is the trainer's or the user's own."""


def told(content: Any, metric: Metric) -> Any:
    """Return what is stored of a study with what the trainer reports, under its own name and in its own sign.

    Args:
        content: Nested mappings, lists and values, as JSON has them.
        metric: What the trainer reports.
    """
    if isinstance(content, list | tuple):
        return [told(item, metric) for item in content]
    if not isinstance(content, Mapping):
        return content

    names = own_names(content, metric)
    own: dict[str, Any] = {}
    for key, item in content.items():
        if key in OF_TEXT and item is None and not metric.of_text:
            continue
        if key in _FOREIGN:
            own[key] = item
        elif key in LOSSES and key in names:
            own[names[key]] = _turned(item, metric)
        else:
            own[names.get(str(key), str(key))] = told(item, metric)

    return own


def _turned(item: Any, metric: Metric) -> Any:
    if isinstance(item, list | tuple):
        return [_turned(value, metric) for value in item]
    return metric.value(item) if isinstance(item, int | float) else item


def own_names(names: Iterable[str], metric: Metric) -> dict[str, str]:
    """Return what columns or keys of this project are called: "last_loss" is "last_accuracy", "tokens_seen" "epochs".

    A trainer may report numbers of the same names beside its metric, which stay as they are.

    Args:
        names: All names of a table or a mapping.
        metric: What the trainer reports.
    """
    there = list(map(str, names))
    own = {}
    for name in there:
        if name in LOSSES and not (name == "loss" and "val_loss" in there):
            own[name] = _name_of_loss(name, metric)
        elif name in _LENGTHS:
            own[name] = _name_of_length(name, metric)

    return {name: called for name, called in own.items() if called == name or called not in there}


def _name_of_loss(name: str, metric: Metric) -> str:
    if metric.name == "loss":
        return name
    whose, _, _ = name.rpartition("_")
    return metric.name if whose in ("", "val") else f"{whose}_{metric.name}"


def _name_of_length(name: str, metric: Metric) -> str:
    if metric.budget_unit == "tokens":
        return name
    return name.removesuffix("_seen").replace("tokens", metric.budget_unit)
