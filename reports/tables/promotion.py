"""What the long run changes of a trial's settings, and what was trained to find that out, in rows."""

from __future__ import annotations

import pandas as pd

from autotune.core.promotion_results import Promotion
from reports.formats import plain

_NAMES = {"learning_rate": "learning rates", "batch": "batch"}


def promotion_table(promotion: Promotion) -> pd.DataFrame:
    """Return the settings that are changed, a row each: setting, in the trial, in the long run, why."""
    changed = [(plain(change.path), change.before, change.after, change.why) for change in promotion.changes]
    return pd.DataFrame(changed, columns=["setting", "in the trial", "in the long run", "why"])


def bracket_table(promotion: Promotion) -> pd.DataFrame:
    """Return what was trained to find out: tokens, what was multiplied, by which factor, loss (NaN if none)."""
    trained = []
    for bracket in promotion.brackets:
        for factor, loss in zip(bracket.factors, bracket.losses, strict=True):
            trained.append((bracket.tokens, _NAMES[bracket.setting], factor, loss))

    table = pd.DataFrame(trained, columns=["tokens", "multiplied", "factor", "loss"])
    return table.astype({"tokens": int, "factor": float, "loss": float})
