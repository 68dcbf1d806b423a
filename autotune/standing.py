"""How a study stands, for `autotune status`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from autotune.finals import ranked
from autotune.records import TrialStatus
from autotune.storage import StudyRecord


def of(record: StudyRecord) -> dict[str, Any]:
    """Returns how a study stands, JSON-able.

    Args:
        record: The study.
    """
    counts = Counter(str(trial.status) for trial in record.trials)
    best = next(iter(ranked(record.trials)), None)
    finished_finals = sum(run.status is TrialStatus.FINISHED for run in record.finals)
    return {
        "study": record.spec.name,
        "running_pid": record.run.running_pid(),
        "trials_wanted": record.spec.budget.trials,
        "trials": dict(counts),
        "best_trial": best.number if best else None,
        "best_loss": best.loss if best else None,
        "finals_finished": finished_finals,
        "finals": len(record.finals),
        "verdict": str(record.verdict.word) if record.verdict else None,
        "full_run": record.attributes.get("full", {}).get("status"),
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
        lines.append(f"finals: {stands['finals_finished']} of {stands['finals']} runs finished")
    if stands["verdict"]:
        lines.append(f"verdict: {stands['verdict']}")
    if stands["last_event"]:
        lines.append(f"last: {stands['last_event']}")
    return "\n".join(lines)
