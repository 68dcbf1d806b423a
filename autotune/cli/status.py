"""How a study stands, for `autotune status`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from autotune.core.records import TrialStatus
from autotune.core.text import time_of_day
from autotune.finals.verdict import ranked
from autotune.store.study_store import StudyRecord


def of(record: StudyRecord) -> dict[str, Any]:
    """Returns how a study stands, JSON-able.

    Args:
        record: The study.
    """
    counts = Counter(str(trial.status) for trial in record.trials)
    best = next(iter(ranked(record.trials)), None)
    # An interrupted run comes again as another.
    finals = [run for run in record.finals if run.status is not TrialStatus.INTERRUPTED]
    verdict, full = record.verdict, record.attributes.full_run
    return {
        "study": record.spec.name,
        "running_pid": record.run.running_pid(),
        "trials_wanted": record.spec.budget.trials,
        "trials": dict(counts),
        "best_trial": best.number if best else None,
        "best_loss": best.loss if best else None,
        "finals_finished": sum(run.status is TrialStatus.FINISHED for run in finals),
        "finals": len(finals),
        "verdict": str(verdict.word) if verdict else None,
        "gain": verdict.gain if verdict else None,
        "gain_low": verdict.gain_low if verdict else None,
        "gain_high": verdict.gain_high if verdict else None,
        "full_run": full.status if full else None,
        "full_run_tokens": full.tokens if full else None,
        "full_run_seen_tokens": full.tokens_seen if full else None,
        "full_run_end_tokens": full.end_tokens if full else None,
        "full_run_done_at": full.done_at if full else None,
        "next": _next(record),
        "last_event": record.events[-1]["message"] if record.events else None,
    }


def describe(stands: dict[str, Any]) -> str:
    """Returns how a study stands, in a few lines.

    Args:
        stands: What `of` returned.
    """
    running = f"running as PID {stands['running_pid']}" if stands["running_pid"] else "not running"
    counts = ", ".join(f"{count} {status}" for status, count in stands["trials"].items()) or "none yet"
    lines = [f"{stands['study']}: {running}", f"trials of {stands['trials_wanted']}: {counts}"]
    if stands["best_trial"] is not None:
        lines.append(f"best so far (one seed): trial {stands['best_trial']}, loss {stands['best_loss']:.4f}")
    if stands["finals"]:
        lines.append(f"runs on fresh seeds: {stands['finals_finished']} of {stands['finals']} finished")
    if stands["verdict"]:
        lines.append(f"verdict: {stands['verdict']}{_gain(stands)}")
    if stands["full_run_tokens"]:
        lines.append(_full_run(stands))
    if stands["last_event"]:
        lines.append(f"last: {stands['last_event']}")
    lines.append(f"next: {stands['next']}")
    return "\n".join(lines)


def _next(record: StudyRecord) -> str:
    """Returns the command that goes on from here, or where the report is when there is nothing to go on with."""
    if record.run.running_pid() is not None:
        return f"{record.run.command('watch')} shows its page, {record.run.command('stop')} parks it"
    full = record.attributes.full_run
    if full is not None and full.status not in (TrialStatus.FINISHED, TrialStatus.DIVERGED):
        return f"{record.run.command('promote')} goes on with the full run"
    was_parked = bool(record.events) and record.events[-1].get("kind") == "parked"
    if record.verdict is None or (was_parked and not any(event.get("kind") == "best" for event in record.events)):
        return f"{record.run.command('run')} goes on with it"
    return f"read {record.run.report / 'index.html'}, which says what comes next"


def _gain(stands: Mapping[str, Any]) -> str:
    """Returns the gain of a verdict with its interval, as the report writes them, or "" if it was not measured."""
    numbers = [stands[name] for name in ("gain", "gain_low", "gain_high")]
    if None in numbers:
        return ""
    gain, low, high = (f"{value:+.4f}".replace("-", "\N{MINUS SIGN}") for value in numbers)
    return f", gain in loss {gain} (95 % interval {low} to {high})"


def _full_run(stands: Mapping[str, Any]) -> str:
    """Returns how far the full run is, and when it ends if it is under way."""
    seen, tokens, status = stands["full_run_seen_tokens"], stands["full_run_tokens"], stands["full_run"]
    line = f"full run: {100 * seen / tokens:.0f} % of {tokens:,} tokens"
    if status != TrialStatus.RUNNING:
        return f"{line}, {status}"
    if (end := stands["full_run_end_tokens"]) is not None:
        line += f", ends at {end:,}"
    if stands["running_pid"] is None:
        return f"{line}, not running"
    left_s = None if stands["full_run_done_at"] is None else stands["full_run_done_at"] - time.time()
    return line if left_s is None else f"{line}, done about {time_of_day(max(0.0, left_s), datetime.now())}"
