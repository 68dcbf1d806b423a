"""What changes between a trial and the long run that follows it, in rows, words and a figure."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from autotune.core.promotion_results import Promotion
from autotune.core.statistics import INTERVAL
from reports.figures.style import BLUE, ORANGE, base_figure
from reports.formats import as_sentence, number, plain, tokens

TITLE = "Settings for the long run"


def rows(promotion: Promotion) -> pd.DataFrame:
    """Return the settings that are changed, a row each: setting, in the trial, in the long run, why."""
    changed = [(plain(change.path), change.before, change.after, change.why) for change in promotion.changes]
    return pd.DataFrame(changed, columns=["setting", "in the trial", "in the long run", "why"])


def losses(promotion: Promotion) -> pd.DataFrame:
    """Return what was trained to find out: tokens, factor (of the trial's learning rates), loss (NaN if none)."""
    trained = []
    for bracket in promotion.brackets:
        for factor, loss in zip(bracket.factors, bracket.losses, strict=True):
            trained.append((bracket.tokens, factor, loss))

    table = pd.DataFrame(trained, columns=["tokens", "factor", "loss"])
    return table.astype({"tokens": int, "factor": float, "loss": float})


def sentences(promotion: Promotion) -> list[str]:
    """Return in words what is changed, by what evidence and how sure that is.

    Args:
        promotion: As it is stored with the study.
    """
    said = _on_learning_rates(promotion)
    if promotion.repeats:
        said.append(as_sentence(promotion.repeats))

    return said


def _on_learning_rates(promotion: Promotion) -> list[str]:
    note = f" ({promotion.note})" if promotion.note else ""
    scaling = promotion.scaling
    if scaling is None:
        return [f"The long run takes the settings of trial {promotion.trial} as they are{note}."]

    grown = number(promotion.tokens / promotion.trial_tokens, 1)
    interval = f"{INTERVAL} {number(scaling.low, 2)} to {number(scaling.high, 2)}"
    said = [
        f"The best learning rate falls the longer a model trains. For a run {grown} times as long as a trial, those of "
        f"trial {promotion.trial} are multiplied by {number(scaling.factor, 2)} ({interval})."
    ]

    if promotion.brackets:
        said.append(
            "That is what shorter runs at two lengths say together with the published rule: the loss at lower and "
            f"higher learning rates is below. The exponent is {number(scaling.exponent, 2)} "
            f"± {number(scaling.exponent_sd, 2)}."
        )
    else:
        said.append(f"That is the published rule alone{note}; it may be off by what the interval says.")

    changed = [
        f"{plain(change.path)} {change.before:.3g} → {change.after:.3g} ({change.why})" for change in promotion.changes
    ]
    if changed:
        said.append(f"So: {'; '.join(changed)}.")

    return said


def learning_rates(promotion: Promotion) -> go.Figure:
    """Draw the losses of the brackets over the factor of the learning rates, and the factor that was chosen."""
    table = losses(promotion)
    figure = base_figure("learning rates as a multiple of the trial's", "loss (nats per token)")

    styles = ((BLUE, "circle"), (ORANGE, "diamond"))
    for length, (colour, symbol) in zip(table["tokens"].unique().tolist(), styles, strict=False):
        group = table[table["tokens"] == length]
        figure.add_scatter(
            x=group["factor"],
            y=group["loss"],
            name=tokens(length),
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": symbol, "size": 9},
            hovertemplate="x %{x:.3g}: loss %{y:.4f}<extra></extra>",
        )

    if promotion.scaling is not None:
        figure.add_vline(x=promotion.scaling.factor, line={"dash": "dot"}, annotation_text="chosen for the long run")

    figure.update_xaxes(type="log")
    return figure
