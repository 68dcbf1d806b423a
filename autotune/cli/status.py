"""How a study stands, for `autotune status`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from autotune.core.records import TrialStatus
from autotune.core.statistics import INTERVAL
from autotune.core.text import time_of_day
from autotune.finals.verdict import ranked
from autotune.promotion.next_step import next_step
from autotune.promotion.selection import best_settings, measured_gain
from autotune.store.study_store import StudyRecord


def summarize(record: StudyRecord) -> dict[str, Any]:
    """Return how a study stands, in values that JSON knows."""
    counts = Counter(str(trial.status) for trial in record.trials)
    lowest = next(iter(ranked(record.trials)), None)
    # An interrupted run comes again as another.
    finals = [run for run in record.finals if run.status is not TrialStatus.INTERRUPTED]

    verdict = record.verdict
    full = record.attributes.full_run
    best = best_settings(record)
    measured = measured_gain(record)
    advice = next_step(record)

    return {
        "study": record.spec.name,
        "running_pid": record.run.running_pid(),
        "trials_wanted": record.spec.budget.trials,
        "trials": dict(counts),
        "best_trial": lowest.number if lowest else None,
        "best_loss": lowest.loss if lowest else None,
        "finals_finished": sum(run.status is TrialStatus.FINISHED for run in finals),
        "finals": len(finals),
        "verdict": str(verdict.word) if verdict else None,
        "promoted_gain": measured.gain if measured else None,
        "promoted_loss": measured.loss if measured else None,
        "left_at_default": list(best.left_at_default) if best else [],
        "gain": verdict.gain if verdict else None,
        "gain_low": verdict.gain_low if verdict else None,
        "gain_high": verdict.gain_high if verdict else None,
        "full_run": full.status if full else None,
        "full_run_tokens": full.tokens if full else None,
        "full_run_seen_tokens": full.tokens_seen if full else None,
        "full_run_end_tokens": full.end_tokens if full else None,
        "full_run_done_at": full.done_at if full else None,
        "next": advice.command,
        "next_why": advice.what,
        "last_event": record.events[-1]["message"] if record.events else None,
    }


def describe(stands: dict[str, Any]) -> str:
    """Return how a study stands, in a few lines.

    Args:
        stands: What `summarize` returned.
    """
    running = f"running as PID {stands['running_pid']}" if stands["running_pid"] else "not running"
    counts = ", ".join(f"{count} {status}" for status, count in stands["trials"].items()) or "none yet"

    lines = [
        f"{stands['study']}: {running}",
        f"trials: {counts}; {stands['trials_wanted']} at most",
    ]
    if stands["best_trial"] is not None:
        lines.append(f"best so far (one seed): trial {stands['best_trial']}, loss {stands['best_loss']:.4f}")
    if stands["finals"]:
        lines.append(f"runs on fresh seeds: {stands['finals_finished']} of {stands['finals']} finished")
    if stands["verdict"]:
        lines.append(f"verdict: {stands['verdict']}{_gain(stands)}")
    if stands["full_run_tokens"]:
        lines.append(_full_run(stands))
    if stands["last_event"]:
        lines.append(f"last event: {stands['last_event']}")
    lines += [stands["next_why"], f"next: {stands['next']}"]

    return "\n".join(lines)


def _gain(stands: Mapping[str, Any]) -> str:
    """Return the gain of a verdict with its interval, as the report writes them, or "" if it was not measured.

    Where changes of the winner are not promoted, the gain without them comes first: it is that of best_config.toml.
    """
    numbers = [stands[name] for name in ("gain", "gain_low", "gain_high")]
    if None in numbers:
        return ""

    gain, low, high = (_signed(value) for value in numbers)
    interval = f"({INTERVAL} {low} to {high})"
    if not stands["left_at_default"]:
        return f", gain in loss {gain} {interval}"

    promoted = _signed(stands["promoted_gain"])
    return f", gain in loss {promoted} with the promoted settings; {gain} with all changes of the winner {interval}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _full_run(stands: Mapping[str, Any]) -> str:
    """Return how far the full run is, and when it ends if it is under way."""
    status = stands["full_run"]
    tokens = stands["full_run_tokens"]
    seen = stands["full_run_seen_tokens"]

    line = f"full run: {100 * seen / tokens:.0f} % of {tokens:,} tokens"
    if status != TrialStatus.RUNNING:
        return f"{line}, {status}"

    if (end := stands["full_run_end_tokens"]) is not None:
        line += f", will end at {end:,}"
    if stands["running_pid"] is None:
        return f"{line}, not running"
    if stands["full_run_done_at"] is None:
        return line

    left_s = max(0.0, stands["full_run_done_at"] - time.time())
    return f"{line}, done about {time_of_day(left_s)}"
