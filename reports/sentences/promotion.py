"""What changes between a trial and the long run that follows it, in sentences."""

from __future__ import annotations

from autotune.core.metric import Metric
from autotune.core.promotion_results import Promotion, Scaling
from autotune.core.statistics import INTERVAL
from autotune.core.text import short_number
from reports.formats import as_sentence, number, plain

TITLE = "Settings for the long run"
_ALIKE = 1.2
"""Factor between two batches below which they are not told apart."""


def sentences(promotion: Promotion, metric: Metric) -> list[str]:
    """Return in words what is changed, by what evidence and how sure that is.

    Args:
        promotion: As it is stored with the study.
        metric: What trials report.
    """
    note = f" ({promotion.note})" if promotion.note else ""
    if promotion.scaling is None:
        said = [f"The long run takes the settings of trial {promotion.trial} as they are{note}."]
    else:
        said = [*_on_the_batch(promotion, metric), *_on_learning_rates(promotion), *_on_the_evidence(promotion, note)]

    if promotion.repeats:
        said.append(as_sentence(promotion.repeats))

    return said


def _on_the_batch(promotion: Promotion, metric: Metric) -> list[str]:
    """Return why the batch is changed and what that is worth; nothing where it stays."""
    batch = promotion.batch
    if batch is None:
        return []

    said = []
    if promotion.has_least_batch:
        said.append(
            "The smallest batch that was searched won, so a still smaller one may be better for trials: let the search "
            "try smaller ones next time. The long run's batch is chosen with that in mind."
        )
    elif not 1 / _ALIKE < promotion.best_batch < _ALIKE:
        smaller = "smaller" if promotion.best_batch < 1 else "larger"
        said.append(
            f"The best trials had {smaller} batches than trial {promotion.trial}. The long run's is chosen with that "
            "in mind."
        )
    if promotion.batch_worth is None:
        return said
    # What a batch is worth was measured on language models.
    if batch.factor < 1 or not metric.of_text:
        return [*said, f"The batch is multiplied by {number(batch.factor, 2)} ({_interval(batch)})."]

    flat, steep = (f"{100 * share:.2g}" for share in promotion.batch_worth)
    return [
        *said,
        "Each step of the training averages over a batch of text. A short trial learns most from many steps on small "
        "batches, a long run from larger ones that show the way more exactly. So the batch is multiplied by "
        f"{number(batch.factor, 2)} ({_interval(batch)}). Keeping the trial's would cost about {flat} to {steep} % of "
        "the loss, by what was measured in other runs.",
    ]


def _on_learning_rates(promotion: Promotion) -> list[str]:
    scaling = promotion.scaling
    assert scaling is not None, "settings that are copied have no scaling"

    grown = number(promotion.tokens / promotion.trial_tokens, 1)
    why = "The best learning rate moves with the length of a run"
    if promotion.batch is not None:
        why += " and with its batch"
    return [
        f"{why}. For a run {grown} times as long as a trial, the learning rates of trial {promotion.trial} are "
        f"multiplied by {number(scaling.factor, 2)} ({_interval(scaling)})."
    ]


def _on_the_evidence(promotion: Promotion, note: str) -> list[str]:
    """Return where the multiples come from, and what they change."""
    said = [
        f"This comes from what is known of other runs{note}; the interval says how far off it may be.",
    ]
    if promotion.brackets:
        what = "learning rates"
        if promotion.batch is not None:
            what = "batches and learning rates"
        said = [
            "This comes from what is known of other runs together with this study's own at two lengths, whose results "
            f"at lower and higher {what} are shown below."
        ]

    changed = [
        f"{plain(change.path)} {short_number(change.before)} → {short_number(change.after)} ({change.why})"
        for change in promotion.changes
    ]
    if changed:
        said.append(f"So: {'; '.join(changed)}.")
    return said


def _interval(scaling: Scaling) -> str:
    return f"{INTERVAL} {number(scaling.low, 2)} to {number(scaling.high, 2)}"
