"""What is known of the full run, in sentences."""

from __future__ import annotations

from autotune.core.metric import Metric
from autotune.core.promotion_results import FullRunRecord
from autotune.core.records import TrialStatus
from autotune.promotion.next_step import is_at_work
from autotune.store.study_record import StudyRecord
from reports.formats import MISSING, duration, finite, moment, percent, plain

# What became of a run by its status; what is missing here is said as it is stored.
_ENDS = {
    TrialStatus.FINISHED: "finished",
    TrialStatus.DIVERGED: "diverged",
    TrialStatus.OUT_OF_MEMORY: "ran out of memory",
    TrialStatus.CRASHED: "crashed",
    TrialStatus.INTERRUPTED: "was interrupted",
}


def full_run_lines(record: StudyRecord) -> list[str]:
    """Return what is known of the promoted full run, or [] when there is none."""
    full = record.attributes.full_run
    if full is None:
        return []

    metric = record.attributes.metric
    if full.status == TrialStatus.RUNNING and is_at_work(record):
        lines = [_in_progress(full, metric)]
    elif full.status in (TrialStatus.RUNNING, TrialStatus.WAITING):
        lines = [_stopped(full, metric)]
    else:
        lines = [_ended(full, metric)]

    loss = finite(full.val_loss)
    if loss is not None:
        accuracy = f", its accuracy {percent(finite(full.val_accuracy))}" if metric.of_text else ""
        lines.append(f"Its {plain(metric.name)} is {metric.number(loss)}{accuracy}.")

    if full.weights:
        # A trainer whose model wrote a sample can write more.
        writes = f"; try it: `{record.run.command('generate')}`" if full.sample else ""
        lines.append(f"Its weights are in {plain(full.weights)}{writes}.")

    return lines


def _ended(full: FullRunRecord, metric: Metric) -> str:
    ends = {str(status): words for status, words in _ENDS.items()}
    ended = ends.get(full.status, f"ended ({plain(full.status)})")
    took = duration(full.seconds)
    size = f"{full.tokens:,}"
    unit = f"training {plain(metric.budget_unit)}"

    if full.status != TrialStatus.FINISHED:
        return f"The full run {ended}: {full.tokens_seen:,} of {size} {unit} in {took}."
    if full.tokens_seen < full.tokens:
        return (
            f"The full run {ended} at {full.tokens_seen:,} of {size} {unit} in {took}: its end was moved to "
            "meet a deadline. Its learning rate was brought down by then, so the model is complete."
        )
    return f"The full run {ended}: {size} {unit} in {took}."


def _stopped(full: FullRunRecord, metric: Metric) -> str:
    """Return the line of a run that no process trains now, whether it was parked or killed."""
    if not full.tokens_seen:
        return f"The full run of {plain(metric.budget(full.tokens))} has not begun."

    share = percent(full.tokens_seen / full.tokens, 0) if full.tokens else MISSING
    size = plain(metric.budget(full.tokens))
    return f"The full run was stopped at {share} of {size}, and goes on from its last checkpoint, if it left one."


def _in_progress(full: FullRunRecord, metric: Metric) -> str:
    share = full.tokens_seen / full.tokens if full.tokens else None

    line = f"The full run is in progress: {percent(share, 0)} of {plain(metric.budget(full.tokens))}"
    if full.at is not None:
        line += f" at {moment(full.at)}"
    if full.done_at is not None:
        line += f" and should end about {moment(full.done_at)}"
    if full.end_tokens is not None:
        line += f"; it ends at {full.end_tokens:,}, which is what fits before its deadline"

    return f"{line}."
