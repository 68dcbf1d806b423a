"""Synthetic studies with numbers that a person can work out by hand."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, Verdict, VerdictWord
from autotune.core.study_results import AttributedChange, Attribution, Interval
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord
from autotune.study.spec import StudySpec

PAYLOADS = (
    "<script>window.ran=1</script>", "</script><img src=x onerror='window.ran=1'>", "{{7*7}}", "\x1b[31mred\x00",
    '"><svg onload=alert(1)>', "=HYPERLINK(\"x\")",
)  # fmt: skip
START = datetime(2026, 1, 5, 21, 0, tzinfo=UTC)
BUDGET_TOKENS = 1000
BASE = {
    "seed": 0,
    "optim": {"muon_lr": 0.02, "grad_accum_steps": 1},
    "model": {"dropout": 0.0, "num_experts": 8, "seq_len": 64},
    "data": {"eval_tokens": 4096, "num_evals": 4},
}
SPACE = {
    "optim.muon_lr": {"low": 0.001, "high": 0.1, "log": True},
    "model.dropout": {"low": 0.0, "high": 0.3},
    "model.num_experts": {"choices": [4, 8, 16]},
    "optim.grad_accum_steps": {"low": 1, "high": 4},
}
FACTS = {"data_hash": "abc123", "train_tokens": 800, "val_tokens": 100, "num_params": 1000, "epochs": 1.25}


def spec(name: str = "night", **changes: Any) -> StudySpec:
    content = {
        "name": name, "title": "A night of search", "trainer": "model.train:train", "seed": 1,
        "budget": {"tokens": BUDGET_TOKENS, "trials": 12}, "base": BASE, "space": SPACE,
        "finals": {"finalists": 2, "select_seeds": 1, "prove_seeds": 3},
    }  # fmt: skip
    return StudySpec.model_validate(content | changes)


def settings(muon_lr: float, dropout: float, num_experts: int, grad_accum_steps: int) -> dict[str, Any]:
    values = (muon_lr, dropout, num_experts, grad_accum_steps)
    return dict(zip(SPACE, values, strict=True))


def result(status: str, losses: Sequence[float], seconds: float, **changes: Any) -> TrialResult:
    """A result with an evaluation every quarter of the budget; accuracy and bits per byte follow the loss."""
    points = tuple(
        EvalPoint(
            250 * (place + 1), loss,
            {"val_accuracy": 1 / loss, "val_bpb": loss / 4, "tokens_per_s": 250 * len(losses) / seconds,
             "peak_memory_bytes": 2.0**31},
        )
        for place, loss in enumerate(losses)
    )  # fmt: skip
    return TrialResult(TrialStatus(status), points=points, seconds=seconds, facts=FACTS, device="cuda:0", **changes)


def trial(
    number: int, status: str, losses: Sequence[float], params: Mapping[str, Any], seconds: float = 100.0,
    role: str = "search", cause: str = "", **changes: Any,
) -> TrialRecord:  # fmt: skip
    started = (START + timedelta(seconds=120 * number)).isoformat()
    log = f"trials/{number:04d}/log.txt"
    outcome = result(status, losses, seconds, started_at=started, cause=cause, log=log)
    return TrialRecord(number, params, TrialStatus(status), outcome, role=role, seed=1, **changes)


def final(number: int, arm: int, stage: str, seed: int, loss: float, after: int = 12) -> TrialRecord:
    started = (START + timedelta(seconds=120 * (after + number))).isoformat()
    outcome = result("finished", [6.0, 5.5, 5.2, loss], 100.0, started_at=started)
    return TrialRecord(number, {}, TrialStatus.FINISHED, outcome, role="final", seed=seed, arm=arm, stage=stage)


def search_trials() -> tuple[TrialRecord, ...]:
    return (
        trial(0, "finished", [6.0, 5.5, 5.2, 5.0], settings(0.02, 0.0, 8, 1), role="baseline"),
        trial(1, "finished", [5.9, 5.4, 5.0, 4.8], settings(0.03, 0.1, 8, 1), seconds=50.0),
        trial(2, "pruned", [6.5, 6.1], settings(0.001, 0.2, 4, 2), seconds=50.0, cause="behind the others"),
        trial(3, "finished", [6.2, 5.6, 5.4, 5.2], settings(0.005, 0.0, 4, 1)),
        trial(4, "diverged", [6.0, math.nan], settings(0.1, 0.0, 8, 1), seconds=40.0, cause="the loss is not finite"),
        trial(5, "out of memory", [], settings(0.02, 0.0, 16, 4), seconds=10.0, cause="needed 20 GiB of 15"),
        trial(6, "finished", [5.7, 5.2, 4.9, 4.6], settings(0.05, 0.05, 16, 1), seconds=200.0),
        trial(7, "crashed", [6.1], settings(0.01, 0.0, 8, 2), seconds=30.0, cause="KeyError: 'tokens'"),
        trial(8, "pruned", [6.4, 6.0], settings(0.002, 0.3, 8, 4), seconds=50.0, cause="behind the others"),
        trial(9, "finished", [5.8, 5.3, 4.95, 4.7], settings(0.04, 0.05, 16, 1), seconds=200.0),
        trial(10, "finished", [6.1, 5.35, 5.1, 4.9], settings(0.03, 0.15, 8, 2)),
        trial(11, "interrupted", [6.0], settings(0.02, 0.1, 8, 1), seconds=20.0, cause="the run was stopped"),
    )


def finals_trials() -> tuple[TrialRecord, ...]:
    losses = [
        (6, "select", 1001, 4.61), (9, "select", 1001, 4.75),
        (0, "prove", 1002, 5.01), (6, "prove", 1002, 4.62), (0, "prove", 1003, 5.03), (6, "prove", 1003, 4.66),
        (0, "prove", 1004, 5.02), (6, "prove", 1004, 4.64),
    ]  # fmt: skip
    return tuple(final(place, *run) for place, run in enumerate(losses))


def verdict(word: str = "better", **changes: Any) -> Verdict:
    """Gains 0.39, 0.37, 0.38: mean 0.38, standard deviation 0.01, t(0.975, 2) = 4.302653."""
    half = 4.302653 * 0.01 / math.sqrt(3)
    made = Verdict(
        VerdictWord(word), "the 95 % interval of 3 pairs lies above zero", winner=6,
        params=settings(0.05, 0.05, 16, 1), seeds=(1002, 1003, 1004), baseline_loss=5.02, winner_loss=4.64, gain=0.38,
        gain_low=0.38 - half, gain_high=0.38 + half, sigma=0.01, min_gain=0.0251,
        baseline_metrics={"val_accuracy": 0.2, "val_bpb": 1.255},
        winner_metrics={"val_accuracy": 0.215, "val_bpb": 1.16},
    )  # fmt: skip
    return replace(made, **changes)


def gpu_sample(time: float, power_w: float | None, energy_j: float | None, *reasons: str) -> dict[str, Any]:
    return {
        "time": time, "temperature_c": 60.0, "power_w": power_w, "sm_clock_hz": 1.5e9,
        "memory_clock_hz": None, "utilization_frac": 0.9, "memory_used_bytes": 2**30, "energy_j": energy_j,
        "throttle_reasons": list(reasons),
    }  # fmt: skip


def gpu_samples() -> tuple[dict[str, Any], ...]:
    first = START.timestamp()
    return (
        gpu_sample(first, 100.0, 0.0),
        gpu_sample(first + 10, 150.0, 1000.0, "power cap"),
        gpu_sample(first + 20, 150.0, 2500.0, "thermal (hardware)"),
        gpu_sample(first + 30, 250.0, None, "thermal (hardware)"),
        gpu_sample(first + 40, 250.0, None),
        gpu_sample(first + 4000, 250.0, None),  # another session: the hour between is not counted
    )


def study(**changes: Any) -> StudyRecord:
    """The finished study that most tests read, in the folder of its name."""
    name = changes["spec"].name if "spec" in changes else "night"
    if re.fullmatch(r"[a-z0-9._-]+", name):
        changes = {"run": FinishedDirectory(Path("runs") / name), **changes}
    record = StudyRecord(
        run=FinishedDirectory(Path("runs/night")), spec=spec(), trials=search_trials(), finals=finals_trials(),
        hardware={"name": "Tesla T4", "driver_version": "550.1"}, verdict=verdict(), created_at=START.isoformat(),
        events=({"time": START.timestamp(), "kind": "started", "message": "trial 0"},), gpu=gpu_samples(),
        attributes=StudyAttributes(Snapshot({"plan": {"trial_s": 100.0, "trials": 12}, "provenance": {
            "spec_hash": "0123", "git_commit": "fedcba", "data_hash": "abc123", "versions": {"torch": "2.10"}}})),
    )  # fmt: skip
    return replace(record, **changes)


def failed_winner_study() -> StudyRecord:
    """The winner gained on three fresh seeds, and diverged on a fourth, on which the default trained."""
    failed = replace(final(9, 6, "prove", 1005, 5.0), status=TrialStatus.DIVERGED)
    runs = (*finals_trials(), final(8, 0, "prove", 1005, 5.02), failed)
    reason = "the winner failed on 1 of its fresh seeds, so it cannot be relied on"
    return study(finals=runs, verdict=verdict("inconclusive", reason=reason))


# Trials, finals and verdict are the finished study's; these three settings come on top of its space.
MORE_BASE = {**BASE, "optim": {**BASE["optim"], "warmup_frac": 0.05, "decay_frac": 0.2, "adamw_lr": 0.001}}
MORE_SPACE = {
    **SPACE,
    "optim.warmup_frac": {"low": 0.0, "high": 0.2},
    "optim.decay_frac": {"low": 0.0, "high": 0.5},
    "optim.adamw_lr": {"low": 0.0001, "high": 0.01, "log": True},
}


def with_attributes(record: StudyRecord, **stored: Any) -> StudyRecord:
    """The same study with more stored, by the names of the storage."""
    return replace(record, attributes=StudyAttributes(Snapshot({**record.attributes.holder.user_attrs, **stored})))


def change(
    path: str, before: Any, after: Any, gain: float | None, harm: float | None, is_tie: bool
) -> AttributedChange:
    """A change whose intervals are 0.03 to either side; None where a training failed."""
    gained, harmed = (None if middle is None else around(middle) for middle in (gain, harm))
    return AttributedChange(path, before, after, gained, harmed, is_tie)


def around(middle: float) -> Interval:
    return middle, middle - 0.03, middle + 0.03


def attribution(**changes: Any) -> Attribution:
    """Six changes, whose gains add up to 0.38; three of them are ties and go back to their default."""
    made = Attribution(
        winner=6, seeds=(1002, 1003), loss=4.645, winner_loss=4.64, baseline_loss=5.02,
        note="no gain could be measured for model.dropout, optim.adamw_lr, optim.decay_frac: left at default",
        gain=around(0.375),
        params={**settings(0.05, 0.0, 16, 1), "optim.warmup_frac": 0.1, "optim.decay_frac": 0.2,
                "optim.adamw_lr": 0.001},
        changes=(
            change("optim.muon_lr", 0.02, 0.05, 0.25, 0.22, False),
            change("model.num_experts", 8, 16, 0.08, 0.09, False),
            change("optim.warmup_frac", 0.05, 0.1, 0.05, 0.06, False),
            change("model.dropout", 0.0, 0.05, 0.01, 0.005, True),
            change("optim.adamw_lr", 0.001, 0.002, -0.005, 0.0, True),
            change("optim.decay_frac", 0.2, 0.3, -0.005, -0.01, True),
        ),
    )  # fmt: skip
    return replace(made, **changes)


def attributed_study(**changes: Any) -> StudyRecord:
    """The finished study with more settings, and what each of its winner's six changes gave."""
    trials = tuple(
        replace(item, params={**item.params, "optim.warmup_frac": 0.05 + number / 120,
                              "optim.decay_frac": round(0.2 + number / 60, 6),
                              "optim.adamw_lr": 0.001 * 2 ** (number / 6)})
        for number, item in enumerate(search_trials())
    )  # fmt: skip
    said = verdict(params={**trials[6].params})
    # Trained without some of the changes: no runs of the winner's own. Those of what is left come last.
    told = attribution(**changes)
    without = (
        final(8, 6, "attribute", 1002, 4.9),
        replace(final(9, 6, "attribute", 1002, 4.635), params=told.params),
        replace(final(10, 6, "attribute", 1003, 4.655), params=told.params),
    )
    return study(
        spec=spec(base=MORE_BASE, space=MORE_SPACE), trials=trials, verdict=said, finals=(*finals_trials(), *without),
        attributes=StudyAttributes(Snapshot({"attribution": json.loads(json.dumps(told.to_json()))})),
    )  # fmt: skip


class FinishedDirectory(RunDirectory):
    """The run directory of a study that has come to its end."""

    @property
    def best_config(self) -> Path:
        """A file that is there."""
        return Path(__file__)


class HeldDirectory(RunDirectory):
    """The run directory of a study that is at work."""

    def running_pid(self) -> int:
        """Returns the process that runs it."""
        return 1234


def empty_study() -> StudyRecord:
    """A study whose first trial has not begun."""
    return StudyRecord(run=HeldDirectory(Path("runs/night")), spec=spec(), trials=())


def running_study() -> StudyRecord:
    """Trials 0 to 3 have ended, 4 runs, 5 waits; no finals."""
    trials = search_trials()
    running = TrialRecord(4, settings(0.1, 0.0, 8, 1), TrialStatus.RUNNING, values={250: 6.0, 500: 5.4})
    waiting = TrialRecord(5, settings(0.02, 0.0, 16, 4), TrialStatus.WAITING)
    held = HeldDirectory(Path("runs/night"))
    return study(run=held, trials=(*trials[:4], running, waiting), finals=(), verdict=None, gpu=())


def failed_study() -> StudyRecord:
    """Every trial failed."""
    trials = tuple(item for item in search_trials() if item.number in (4, 5, 7))
    made = Verdict(VerdictWord.FAILED, "no trial finished")
    return study(trials=trials, finals=(), verdict=made, gpu=())


def minimal_study() -> StudyRecord:
    """A user's trainer that reports tokens_seen and val_loss alone, and no facts."""

    def bare(item: TrialRecord) -> TrialRecord:
        assert item.result is not None
        points = tuple(EvalPoint(point.tokens_seen, point.val_loss) for point in item.result.points)
        return replace(item, result=TrialResult(item.status, points=points, seconds=item.result.seconds))

    made = verdict(baseline_metrics={}, winner_metrics={})
    return StudyRecord(
        run=FinishedDirectory(Path("runs/night")), spec=spec(base={**BASE, "data": {}}), verdict=made,
        trials=tuple(map(bare, search_trials())), finals=tuple(map(bare, finals_trials())),
    )  # fmt: skip


def large_study(trials: int, points: int, seed: int = 0) -> StudyRecord:
    """Many trials of plausible shape, for figures that need them and for size and time."""
    chance = random.Random(seed)
    made = [_plausible(number, points, chance) for number in range(trials)]
    done = [item for item in made if item.loss is not None]
    best = min(done, key=lambda item: item.loss or 0.0)
    default, lowest = made[0].loss or 0.0, best.loss or 0.0
    runs = []
    for place in range(4):
        for offset, (arm, loss) in enumerate(((0, default), (best.number, lowest + 0.02))):
            number = 2 * place + offset
            runs.append(final(number, arm, "prove", 1002 + place, loss + chance.gauss(0, 0.01), after=trials))
    gain = default - lowest - 0.02
    said = verdict(
        winner=best.number, params=best.params, baseline_loss=default, winner_loss=lowest + 0.02, gain=gain,
        gain_low=gain - 0.03, gain_high=gain + 0.03, seeds=(1002, 1003, 1004, 1005),
        baseline_metrics={"val_accuracy": 1 / default, "val_bpb": default / 4},
        winner_metrics={"val_accuracy": 1 / (lowest + 0.02), "val_bpb": (lowest + 0.02) / 4},
    )  # fmt: skip
    changed = [path for path, value in best.params.items() if value != made[0].params[path]]
    shares = [change(path, made[0].params[path], best.params[path], gain / len(changed), gain / len(changed), False)
              for path in changed]  # fmt: skip
    found = attribution(
        winner=best.number, params=best.params, changes=tuple(shares), baseline_loss=default, winner_loss=lowest + 0.02,
        loss=lowest + 0.02, note="all changes helped",
    )  # fmt: skip
    base = study(trials=tuple(made), finals=tuple(runs), verdict=said, gpu=_plausible_gpu(trials, chance))
    base = replace(
        base,
        attributes=StudyAttributes(Snapshot({**base.attributes.holder.user_attrs, "attribution": found.to_json()})),
    )
    return replace(base, spec=spec(budget={"tokens": 250 * points, "trials": trials}))


def _plausible_gpu(trials: int, chance: random.Random) -> tuple[dict[str, Any], ...]:
    samples = []
    for place in range((trials + 8) * 24):
        hot = 400 < place < 480
        reasons = ["thermal (software)"] if hot else ["power cap"]
        sample = gpu_sample(START.timestamp() + 5 * place, 68 + chance.gauss(0, 2), None, *reasons)
        warmed = 74 + 12 * hot - 30 * math.exp(-place / 40) + chance.gauss(0, 0.5)
        samples.append(sample | {"temperature_c": warmed, "sm_clock_hz": (0.9 if hot else 1.4) * 1e9})
    return tuple(samples)


def _plausible(number: int, points: int, chance: random.Random) -> TrialRecord:
    if number == 0:
        params = settings(0.01, 0.1, 8, 2)
    else:
        rate = min(0.1, max(0.001, 10 ** chance.gauss(-1.6, 0.4)))
        params = settings(rate, chance.uniform(0, 0.3), chance.choice([4, 8, 16]), chance.randint(1, 4))
    quality = 4.7 + 0.5 * (math.log10(params["optim.muon_lr"]) + 1.5) ** 2 + 0.6 * params["model.dropout"]
    quality += 0.05 * params["optim.grad_accum_steps"] - 0.01 * params["model.num_experts"] + chance.gauss(0, 0.02)
    status = "finished"
    if number:
        status = "diverged" if params["optim.muon_lr"] > 0.09 else "pruned" if quality > 5.0 else "finished"
    ended = {"finished": points, "pruned": max(1, points // 3), "diverged": max(1, points // 5)}[status]
    losses = [quality + 3.0 * math.exp(-4 * (place + 1) / points) for place in range(ended)]
    if status == "diverged":
        losses[-1] = math.inf
    causes = {"finished": "", "pruned": "behind the other trials", "diverged": "the loss is not finite"}
    seconds = (80 + 2 * params["model.num_experts"] + chance.gauss(0, 1)) * ended / points
    role = "search" if number else "baseline"
    return trial(number, status, losses, params, seconds=seconds, role=role, cause=causes[status])


def hostile_study() -> StudyRecord:
    """Every text that a user, a trainer or a log brings along is a payload."""
    everything = " ".join(PAYLOADS)
    knob = PAYLOADS[1].replace(".", "")
    base = {knob: PAYLOADS[0], "safe": 1.0}
    space = {knob: {"choices": list(PAYLOADS)}, "safe": {"low": 0.5, "high": 2.0}}
    made_spec = spec(title=everything, base=base, space=space)
    trials = tuple(
        trial(
            number, "crashed" if number == 5 else "finished", [6.0, 5.5, 5.0, 5.0 - number / 100],
            {knob: PAYLOADS[number % len(PAYLOADS)], "safe": 1.0 + number / 100}, cause=everything,
            role="search" if number else "baseline",
        )
        for number in range(20)
    )  # fmt: skip
    said = verdict(reason=everything, winner=1, params=dict(trials[1].params))
    changes = (
        change(knob, PAYLOADS[0], PAYLOADS[1], 0.3, 0.2, False), change(everything, everything, "", 0.0, 0.0, True),
        change("safe", 1.0, 1.01, None, None, False),
    )  # fmt: skip
    found = attribution(winner=1, changes=changes, params={**trials[1].params, everything: everything}, note=everything)
    warning = {"kind": everything, "tokens_seen": 1, "finding": everything, "action": everything}
    full = {
        "status": everything, "sample": everything, "weights": everything, "tokens": 1, "warnings": [warning],
        "points": [{"tokens_seen": 1, "val_loss": 1.0}],
    }  # fmt: skip
    return study(
        spec=made_spec, trials=trials, verdict=said, hardware={"name": everything}, created_at=everything,
        events=({"time": "x", "kind": everything, "message": everything},), gpu=(),
        attributes=StudyAttributes(Snapshot({"full": full, "attribution": found.to_json(), "provenance": {
            everything: everything, "versions": {everything: everything}}})),
    )  # fmt: skip


STUDIES = {
    "finished": study,
    "attributed": attributed_study,
    "empty": empty_study,
    "running": running_study,
    "failed": failed_study,
    "minimal trainer": minimal_study,
}
