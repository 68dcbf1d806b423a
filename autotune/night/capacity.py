"""How fast the real trainer is here, what it takes and what fits: short probes of it, and the costs fitted to them."""

from __future__ import annotations

import bisect
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import StudyAttributes
from autotune.core.config_paths import get_path, present, with_paths
from autotune.core.errors import UserError
from autotune.engine.cost_model import CostModel, Counts, Measured
from autotune.engine.equal_seconds import EqualSeconds
from autotune.engine.event_loop import FIRST_EVALUATION_ALLOWANCE, TICK_S
from autotune.engine.probes import Probe, Probing
from autotune.engine.queue import hardware_overrides
from autotune.engine.worker import Done, Failed, Job, Progress, Slot, Worker, ready
from autotune.machine.hardware import HardwareProfile
from autotune.search.dimension import Value
from autotune.search.space import SearchSpace
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

# Share of a trial's budget that the probe trains: enough for a steady speed, little enough to be forgotten.
PROBE_FRAC = 1 / 25
# A probe on a GPU goes to this many evaluations of a trial of so many tokens, or of the study's own if that is
# shorter: a small share would be over before clocks and caches are warm, and a long trial's would cost the night.
PROBE_POINTS = 3
PROBE_TOKENS = 4_000_000
MICRO_BATCH = "system.micro_batch_size"
ACCUMULATION = "optim.grad_accum_steps"
MAX_PASS = "system.max_pass_sequences"
MERGED = 4
"""Micro-batches merged, or parts of one, in the probes that tell what the size of a pass changes."""
"""Attributes of the study: what the trainer said in the plan's probe, and the coefficients that were fitted."""


def probe_length(spec: StudySpec, profile: HardwareProfile) -> tuple[int, int]:
    """Returns the token budget of a probe and the evaluations after which it ends, 0 for its whole budget."""
    if profile.device == "cuda":
        return min(spec.budget.tokens, PROBE_TOKENS), PROBE_POINTS
    return max(1, int(spec.budget.tokens * PROBE_FRAC)), 0


def probe(
    study: Study,
    profile: HardwareProfile,
    slot: Slot,
    changes: Mapping[str, Any] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    worker: Worker | None = None,
) -> Probe:
    """Trains the baseline for a small share of its budget.

    On a GPU it is the beginning of a trial, to `PROBE_POINTS` evaluations.

    Args:
        study: The study.
        profile: The hardware, which decides device and dtype.
        slot: Where to train.
        changes: Settings to probe instead of the baseline's, by dotted path.
        stopped: Whether the user wants it to end.
        worker: What trains; default one of its own.

    Raises:
        UserError: If the baseline does not train: then no trial would. With exit code 130 if it was stopped.
    """
    spec = study.spec
    config = with_paths(spec.base, {**hardware_overrides(study, profile.overrides()), **(changes or {})})
    tokens, points = probe_length(spec, profile)
    patience_s = FIRST_EVALUATION_ALLOWANCE * spec.limits.hang_s
    with tempfile.TemporaryDirectory() as folder:
        job = Job(config, tokens, Path(folder) / "log.txt")
        if worker is not None:
            return _train_briefly(worker, job, patience_s, stopped, points)
        worker = Worker(slot, spec.trainer)
        try:
            return _train_briefly(worker, job, patience_s, stopped, points)
        finally:
            worker.kill()


def _train_briefly(worker: Worker, job: Job, patience_s: float, stopped: Callable[[], bool], last_point: int) -> Probe:
    probing = Probing(job.budget_tokens, last_point)
    worker.submit(job)
    while time.monotonic() - probing.heard < patience_s:
        if stopped():
            raise UserError("stopped while probing the baseline; nothing is lost: run again", 130)
        if not ready([worker], TICK_S):
            continue
        message = worker.receive()
        if isinstance(message, Progress):
            worker.answer(probing.take(message.point))
        elif isinstance(message, Done) and probing:
            return probing.result(message.facts)
        else:
            raise UserError(_failure(message, worker, job.log), 1)
    why = f"no evaluation within {patience_s:.0f} s"
    raise UserError(f"the baseline does not train: {why}; let it evaluate more often, or raise limits.hang_s", 1)


def _failure(message: Failed | Done | None, worker: Worker, log: Path) -> str:
    if isinstance(message, Failed):
        why = message.message
    elif isinstance(message, Done):
        why = "the trainer returned without a single report"
    else:
        tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        why = "\n".join([worker.cause_of_death(), *tail])
    return (
        f"the baseline does not train: {why}\nmend that in [base] of the study file, or in the trainer, and run again"
    )


def cost_model(
    study: Study, profile: HardwareProfile, slot: Slot, baseline: Probe, stopped: Callable[[], bool] = lambda: False
) -> CostModel | None:
    """Probes a few shapes and fits what steps cost.

    Args:
        study: The study.
        profile: The hardware.
        slot: Where to train.
        baseline: The probe of the baseline.
        stopped: Whether the user wants it to end.

    Returns:
        None if the trainer counts nothing or its config has no passes to choose.
    """
    found = [_measured(study, profile, {}, baseline)]
    if found == [None]:
        return None
    worker = Worker(slot, study.spec.trainer)
    try:
        for changes in _shapes(study, profile, baseline):
            try:
                taken = probe(study, profile, slot, changes, stopped, worker)
                found.append(_measured(study, profile, changes, taken))
            except UserError:
                if stopped():
                    raise
                # Too large for this device, most likely: the others say enough to know that.
                worker.kill()
                worker = Worker(slot, study.spec.trainer)
    finally:
        worker.kill()
    return CostModel.fit([each for each in found if each is not None])


def _measured(study: Study, profile: HardwareProfile, changes: Mapping[str, Any], taken: Probe) -> Measured | None:
    counts = _counts(study, profile, changes, taken.facts)
    if counts is None or not taken.tokens_per_s or not taken.peak_bytes:
        return None
    return Measured(counts, counts.step_tokens / taken.tokens_per_s, taken.peak_bytes)


def _counts(
    study: Study, profile: HardwareProfile, changes: Mapping[str, Any], facts: Mapping[str, Any]
) -> Counts | None:
    """Returns the counts of a configuration as it would run on this hardware."""
    base = study.spec.base
    if len(present(base, {MICRO_BATCH: 0, ACCUMULATION: 0, MAX_PASS: 0})) < 3:
        return None
    on_hardware = {**hardware_overrides(study, profile.overrides()), **changes}
    values = study.trainer.counts(with_paths(base, on_hardware), facts)
    return None if values is None else Counts.of(values)


def _shapes(study: Study, profile: HardwareProfile, baseline: Probe) -> list[dict[str, Any]]:
    """Returns what to probe beside the baseline: smaller passes, larger ones, and the corner with most weights."""
    base = study.spec.base
    micro_batch, accumulation = int(get_path(base, MICRO_BATCH)), int(get_path(base, ACCUMULATION))
    shapes: list[dict[str, Any]] = [
        {MAX_PASS: max(1, micro_batch // MERGED)},
        {ACCUMULATION: MERGED * accumulation, MAX_PASS: MERGED * micro_batch},
    ]

    def weights(changes: Mapping[str, Any]) -> float:
        counts = _counts(study, profile, changes, baseline.facts)
        return counts.weights if counts is not None else 0.0

    heaviest = max(_corners(study.spec.space, base), key=weights)
    if weights(heaviest) > weights({}):
        shapes.append(heaviest)
    return shapes


def _corners(space: SearchSpace, base: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(corner) for corner in space.at_limits().corners(base)] or [{}]


def fitting(
    study: Study, model: CostModel, profile: HardwareProfile, facts: Mapping[str, Any]
) -> dict[str, tuple[Value, ...]]:
    """Returns what is left of choices and ranges of whole numbers of which some values cannot fit on this device.

    A value cannot fit if it does not even with one sequence at a time and everything else as small as it may be.

    Args:
        study: The study.
        model: What steps cost.
        profile: The hardware with its memory.
        facts: Of a probe.

    Returns:
        The choices left, or low and high, by dotted path; nothing for settings that fit whole.
    """
    corners = _corners(study.spec.space, study.spec.base)

    def fits(path: str, value: Value) -> bool:
        counted = (_counts(study, profile, {**corner, path: value, MAX_PASS: 1}, facts) for corner in corners)
        return any(counts is None or model.fits(counts, profile.memory_bytes) for counts in counted)

    found: dict[str, tuple[Value, ...]] = {}
    for path, dimension in study.spec.space.root.items():
        if dimension.choices is None and not dimension.is_integer:
            continue
        values = dimension.grid()
        if dimension.choices is not None:
            left = [value for value in values if fits(path, value)]
        else:  # larger ones never take less
            left = values[: bisect.bisect_left(values, True, key=lambda value: not fits(path, value))]
        if get_path(study.spec.base, path) in left and len(left) < len(values):
            found[path] = tuple(left) if dimension.choices is not None else (left[0], left[-1])
    return found


def describe_left(spec: StudySpec, path: str, left: Sequence[Value], profile: HardwareProfile) -> str:
    """Returns in words what of a setting is left out because it does not fit.

    Args:
        spec: The study.
        path: The setting.
        left: What is left of it, as `fitting` returns it.
        profile: The hardware with its memory.
    """
    kept = f"{left[0]} to {left[-1]}" if spec.space[path].choices is None else ", ".join(map(str, left))
    size = f"{profile.memory_bytes / 2**30:.1f} GiB"
    return f"{path} is kept to {kept}: the others do not fit into {size}, not even one sequence at a time"


def choose_pass(
    study: Study,
    model: CostModel,
    profile: HardwareProfile,
    facts: Mapping[str, Any],
    left: Mapping[str, Sequence[Any]] | None = None,
) -> int:
    """Returns the most sequences that one pass shall have: fast, and small enough for every corner of the space.

    Args:
        study: The study.
        model: What steps cost.
        profile: The hardware with its memory.
        facts: Of a probe.
        left: Choices and ranges that are left, as `fitting` returns them.

    Returns:
        0 if not even one sequence fits, or the study file chooses itself.
    """
    if MAX_PASS in study.explicit:
        return 0
    micro_batch = int(get_path(study.spec.base, MICRO_BATCH))
    corners = _corners(study.spec.space.with_ranges(left or {}), study.spec.base)
    accumulations = {int(get_path(with_paths(study.spec.base, corner), ACCUMULATION)) for corner in corners}
    sizes = {micro_batch * factor for factor in range(1, max(accumulations) + 1)}
    sizes |= {size for size in range(1, micro_batch) if micro_batch % size == 0}
    candidates = {}
    for size in sizes:
        counted = [_counts(study, profile, {**corner, MAX_PASS: size}, facts) for corner in corners]
        candidates[size] = [counts for counts in counted if counts is not None]
    return model.best_pass(candidates, profile.memory_bytes)


def equal_seconds(
    study: Study,
    profile: HardwareProfile,
    slot: Slot,
    optuna_study: optuna.Study,
    storage: RDBStorage,
    overrides: Mapping[str, Any],
    stopped: Callable[[], bool],
) -> EqualSeconds | None:
    """Returns what gives each configuration its own token budget; None if the objective asks for equal tokens.

    Without a cost model the baseline is probed by each process anew: speeds of two machines, or of two nights, are not
    to be divided by each other.

    Args:
        study: The study.
        profile: The hardware.
        slot: Where to train.
        optuna_study: Holds what the plan measured.
        storage: Its storage.
        overrides: What the engine fills into each config, by dotted path.
        stopped: Whether the user wants it to end.
    """
    if study.spec.objective != "loss_at_equal_seconds":
        return None
    attributes = StudyAttributes(optuna_study)
    facts, stored = attributes.probe_facts, attributes.cost_model
    model = None if stored is None else CostModel(**stored)
    baseline = with_paths(study.spec.base, overrides)
    if model is None:
        speed = probe(study, profile, slot, overrides, stopped).speed
    else:
        speed = model.tokens_per_s(Counts.of(study.trainer.counts(baseline, facts) or {}))
    found = EqualSeconds(study, optuna_study, storage, facts, model, speed, probe_length(study.spec, profile))
    found.keep(study.spec.space.baseline(study.spec.base), baseline, speed)
    return found


def largest_micro_batch(study: Study, profile: HardwareProfile, slot: Slot) -> int:
    """Returns the most sequences of one pass of the baseline that the cost model lets fit; 0 if unknown.

    Args:
        study: The study.
        profile: The hardware with its memory.
        slot: Where to train.
    """
    baseline = probe(study, profile, slot)
    model = cost_model(study, profile, slot, baseline)
    if model is None:
        return 0

    def fits(size: int) -> bool:
        counts = _counts(study, profile, {MICRO_BATCH: size, ACCUMULATION: 1, MAX_PASS: 0}, baseline.facts)
        return counts is not None and model.fits(counts, profile.memory_bytes)

    size = 0
    for step in (2**power for power in reversed(range(20))):  # binary search: more sequences never take less
        size += step if fits(size + step) else 0
    return size
