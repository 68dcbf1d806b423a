"""What changes between a trial and the long run that follows it, in sentences."""

from __future__ import annotations

from autotune.core.promotion_results import Promotion
from autotune.core.statistics import INTERVAL
from reports.formats import as_sentence, number, plain

TITLE = "Settings for the long run"


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
        f"The longer a model trains, the lower its best learning rate. For a run {grown} times as long as a trial, the "
        f"learning rates of trial {promotion.trial} are multiplied by {number(scaling.factor, 2)} ({interval})."
    ]

    if promotion.brackets:
        said.append(
            "This comes from the published rule together with shorter runs at two lengths, whose losses at lower and "
            f"higher learning rates are shown below. The exponent is {number(scaling.exponent, 2)} "
            f"± {number(scaling.exponent_sd, 2)}."
        )
    else:
        said.append(f"This comes from the published rule alone{note}; the interval says how far off it may be.")

    changed = [
        f"{plain(change.path)} {change.before:.3g} → {change.after:.3g} ({change.why})" for change in promotion.changes
    ]
    if changed:
        said.append(f"So: {'; '.join(changed)}.")

    return said
