"""The state of a study, for `autotune status`."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune.core.files import read_lines
from autotune.core.metric import Metric
from autotune.core.peers import AWAITS
from autotune.core.records import TrialStatus
from autotune.core.statistics import INTERVAL
from autotune.core.text import duration, of_seeds, time_of_day
from autotune.finals.verdict import ranked
from autotune.promotion.next_step import next_step
from autotune.promotion.selection import best_settings, measured_gain
from autotune.promotion.standing import state_of
from autotune.store.by_machine import by_machine
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord

_JOULES_PER_KWH = 3.6e6


def in_preparation(root: Path) -> dict[str, Any] | None:
    """Return the state of a study whose data is being made ready for the first time, None of any other.

    Args:
        root: The run directory, in which no study is stored yet.
    """
    run = RunDirectory(root)
    if os.path.exists(run.spec) or (pid := run.running_pid()) is None:
        return None

    events = read_lines(run.events)
    last_event = None
    if events:
        last_event = events[-1]["message"]
    return {"study": root.name, "state": "preparing", "running_pid": pid, "trials": {}, "last_event": last_event}


def describe_preparation(state: Mapping[str, Any]) -> str:
    """Return what `in_preparation` returned in a few lines for a person."""
    lines = [
        f"{state['study']}: running as PID {state['running_pid']}",
        "trials: none yet; its data is being made ready",
    ]
    if state["last_event"]:
        lines.append(f"last event: {state['last_event']}")
    return "\n".join(lines)


def summarize(record: StudyRecord) -> dict[str, Any]:
    """Return the state of a study, in values that JSON knows."""
    counts = Counter(str(trial.status) for trial in record.trials)
    # An interrupted run is repeated as another.
    finals = [run for run in record.finals if run.status is not TrialStatus.INTERRUPTED]
    advice = next_step(record)
    last_event = None
    if record.events:
        last_event = record.events[-1]["message"]

    return {
        "study": record.name,
        "state": state_of(record),
        "running_pid": record.run.running_pid(),
        "peers": peers_at_work(record),
        "machines": _machines(record),
        "trials_wanted": record.spec.most_trials,
        "trials": dict(counts),
        "trials_taken_along": sum(trial.taken_from is not None for trial in record.trials),
        "seeds_per_trial": record.spec.budget.seeds,
        **_best_trial(record),
        "finals_finished": sum(run.status is TrialStatus.FINISHED for run in finals),
        "finals": len(finals),
        **_verdict(record),
        **_promoted(record),
        **_full_run(record),
        "metric": record.attributes.metric.to_json(),
        "next": advice.command,
        "next_why": advice.what,
        "last_event": last_event,
        "steered": _steered(record),
    }


def _steered(record: StudyRecord) -> list[dict[str, Any]]:
    """Return what a person asked of the study as it ran, in that order; what is not taken up yet has no answer."""
    told = []
    for request in record.attributes.requests:
        done = None if request.answer is None else request.is_done
        says = request.sentence(record.created_at)
        told.append({"at": request.at, "says": says, "done": done, "wish": request.wish.model_dump(mode="json")})
    return told


def peers_at_work(record: StudyRecord) -> list[dict[str, Any]]:
    """Return the processes that work on a shared study, and what each is at."""
    trains: dict[str, list[str]] = {}
    for kind, runs in (("trial", record.trials), ("run on fresh seeds", record.finals)):
        for run in runs:
            if run.status is TrialStatus.RUNNING:
                trains.setdefault(run.peer, []).append(f"{kind} {run.number}")

    told = []
    for peer in record.peers:
        doing = ", ".join(trains.get(peer.id, [])) or peer.doing
        fields = {"id": peer.id, "host": peer.host, "device": peer.device, "since": peer.since, "role": peer.role}
        told.append({**fields, "doing": doing})
    return told


def _machines(record: StudyRecord) -> list[dict[str, Any]]:
    """Return what each machine has trained, where there was more than one."""
    metric = record.attributes.metric
    told = []
    for share in by_machine(record):
        losses = {name: getattr(share, name) for name in ("median_loss", "best_loss")}
        values = {name: None if loss is None else metric.value(loss) for name, loss in losses.items()}
        told.append({**asdict(share), **values})
    return told


def _best_trial(record: StudyRecord) -> dict[str, Any]:
    """Return the finished trial with the lowest loss, None where none has finished."""
    lowest = next(iter(ranked(record.trials)), None)
    if lowest is None:
        return {"best_trial": None, "best_loss": None}

    assert lowest.loss is not None, "what is ranked has a loss"
    return {"best_trial": lowest.number, "best_loss": record.attributes.metric.value(lowest.loss)}


def _verdict(record: StudyRecord) -> dict[str, Any]:
    """Return the verdict and the gain of the whole winner, None where there is no verdict yet."""
    verdict = record.verdict
    if verdict is None:
        return {"verdict": None, "gain": None, "gain_low": None, "gain_high": None}

    return {
        "verdict": str(verdict.word),
        "gain": verdict.gain,
        "gain_low": verdict.gain_low,
        "gain_high": verdict.gain_high,
    }


def _promoted(record: StudyRecord) -> dict[str, Any]:
    """Return the gain of the settings in best_config.toml, and the changes that they leave at their default."""
    values: dict[str, Any] = {"promoted_gain": None, "promoted_loss": None, "left_at_default": []}
    if (measured := measured_gain(record)) is not None:
        metric = record.attributes.metric
        values |= {"promoted_gain": measured.gain, "promoted_loss": metric.value(measured.loss)}
    if (best := best_settings(record)) is not None:
        values["left_at_default"] = list(best.left_at_default)
    return values


def _full_run(record: StudyRecord) -> dict[str, Any]:
    """Return how far the full run is, None where there is none."""
    names = ("full_run", "full_run_tokens", "full_run_seen_tokens", "full_run_end_tokens", "full_run_done_at")
    full = record.attributes.full_run
    if full is None:
        return dict.fromkeys(names)

    values = (full.status, full.tokens, full.tokens_seen, full.end_tokens, full.done_at)
    return dict(zip(names, values, strict=True))


def describe(state: Mapping[str, Any]) -> str:
    """Return the state of a study, in a few lines for a person.

    Args:
        state: What `summarize` returned.
    """
    running = "not running"
    if state["running_pid"]:
        running = f"running as PID {state['running_pid']}"
    working = [peer for peer in state["peers"] if peer["doing"] != AWAITS]
    if working:
        running = f"running, by {len(working)} process{'es' if len(working) > 1 else ''}"
    metric = Metric.from_json(state["metric"])
    counts = ", ".join(f"{count} {status}" for status, count in state["trials"].items()) or "none yet"
    if state["trials_taken_along"]:
        counts += f" ({state['trials_taken_along']} of them taken along from another study)"

    lines = [
        f"{state['study']}: {running}",
        *map(_peer_line, state["peers"]),
        f"trials: {counts}; {state['trials_wanted']} at most",
        *map(_machine_line, state["machines"]),
    ]
    if state["best_trial"] is not None:
        seeds = of_seeds(state["seeds_per_trial"])
        best = metric.words(metric.value(state["best_loss"]))
        lines.append(f"best so far ({seeds}): trial {state['best_trial']}, {best}")
    if state["finals"]:
        lines.append(f"runs on fresh seeds: {state['finals_finished']} of {state['finals']} finished")
    if state["verdict"]:
        lines.append(f"verdict: {state['verdict']}{_gain(state)}")
    if state["full_run_tokens"]:
        lines.append(_full_run_line(state))
    lines += [steered["says"] for steered in state["steered"]]
    if state["last_event"]:
        lines.append(f"last event: {state['last_event']}")
    lines += [state["next_why"], f"next: {state['next']}"]

    return "\n".join(lines)


def _peer_line(peer: Mapping[str, Any]) -> str:
    since = datetime.fromisoformat(peer["since"]).astimezone()
    device = peer["device"] or "a device that is being measured"
    return f"  {peer['role']} {peer['id']} on {peer['host']}, {device}, since {since:%a %H:%M}: {peer['doing']}"


def _machine_line(machine: Mapping[str, Any]) -> str:
    energy = "" if machine["energy_j"] is None else f", {machine['energy_j'] / _JOULES_PER_KWH:.2f} kWh"
    trained = f"{machine['trials']} trials, {machine['finals']} runs on fresh seeds"
    return f"  {machine['host']}, {machine['device']}: {trained}, {duration(machine['seconds'])}{energy}"


def _gain(state: Mapping[str, Any]) -> str:
    """Return the gain of a verdict with its interval, as the report writes them, or "" if it was not measured.

    Where changes of the winner are left at their default, the gain without them comes first: best_config.toml has it.
    """
    numbers = [state[name] for name in ("gain", "gain_low", "gain_high")]
    if None in numbers:
        return ""

    metric = Metric.from_json(state["metric"])
    gain, low, high = (metric.signed(value) for value in numbers)
    interval = f"({INTERVAL} {low} to {high})"
    if not state["left_at_default"]:
        return f", gain in {metric.name} {gain} {interval}"

    promoted = metric.signed(state["promoted_gain"])
    whole = f"{gain} with all changes of the winner {interval}"
    return f", gain in {metric.name} {promoted} with the promoted settings; {whole}"


def _full_run_line(state: Mapping[str, Any]) -> str:
    """Return how far the full run is, and when it ends if it is under way."""
    status = state["full_run"]
    tokens = state["full_run_tokens"]
    seen = state["full_run_seen_tokens"]

    line = f"full run: {100 * seen / tokens:.0f} % of {tokens:,} {state['metric']['budget_unit']}"
    if status != TrialStatus.RUNNING:
        return f"{line}, {status}"

    if (end := state["full_run_end_tokens"]) is not None:
        line += f", will end at {end:,}"
    if state["running_pid"] is None and not state["peers"]:
        return f"{line}, not running"
    if state["full_run_done_at"] is None:
        return line

    left_s = max(0.0, state["full_run_done_at"] - time.time())
    return f"{line}, done about {time_of_day(left_s)}"
