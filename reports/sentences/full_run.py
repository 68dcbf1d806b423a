"""What is known of the full run, in sentences."""

from __future__ import annotations

from autotune.core.promotion_results import FullRunRecord
from autotune.core.records import TrialStatus
from autotune.promotion.next_step import is_at_work
from autotune.store.study_store import StudyRecord
from reports.formats import MISSING, duration, finite, moment, number, percent, plain

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

    if full.status == TrialStatus.RUNNING and is_at_work(record):
        lines = [_in_progress(full)]
    elif full.status in (TrialStatus.RUNNING, TrialStatus.WAITING):
        lines = [_stopped(full)]
    else:
        lines = [_ended(full)]

    loss = finite(full.val_loss)
    if loss is not None:
        accuracy = percent(finite(full.val_accuracy))
        lines.append(f"Its loss is {number(loss)}, its accuracy {accuracy}.")

    if full.weights:
        # A trainer whose model wrote a sample can write more.
        writes = f"; try it: `{record.run.command('generate')}`" if full.sample else ""
        lines.append(f"Its weights are in {plain(full.weights)}{writes}.")

    return lines


def _ended(full: FullRunRecord) -> str:
    ends = {str(status): words for status, words in _ENDS.items()}
    ended = ends.get(full.status, f"ended ({plain(full.status)})")
    took = duration(full.seconds)
    size = f"{full.tokens:,}"

    if full.status != TrialStatus.FINISHED:
        return f"The full run {ended}: {full.tokens_seen:,} of {size} training tokens in {took}."
    if full.tokens_seen < full.tokens:
        return (
            f"The full run {ended} at {full.tokens_seen:,} of {size} training tokens in {took}: no more fitted before "
            "its deadline. Its learning rate was brought down early, so the model is complete."
        )
    return f"The full run {ended}: {size} training tokens in {took}."


def _stopped(full: FullRunRecord) -> str:
    """Return the line of a run that no process trains now, whether it was parked or killed."""
    if not full.tokens_seen:
        return f"The full run of {full.tokens:,} tokens has not begun."

    share = percent(full.tokens_seen / full.tokens, 0) if full.tokens else MISSING
    return f"The full run was stopped at {share} of {full.tokens:,} tokens, and will go on from its last checkpoint."


def _in_progress(full: FullRunRecord) -> str:
    share = full.tokens_seen / full.tokens if full.tokens else None

    line = f"The full run is in progress: {percent(share, 0)} of {full.tokens:,} tokens"
    if full.at is not None:
        line += f" at {moment(full.at)}"
    if full.done_at is not None:
        line += f" and should end about {moment(full.done_at)}"
    if full.end_tokens is not None:
        line += f"; it ends at {full.end_tokens:,}, which is what fits before its deadline"

    return f"{line}."
