"""What trainings cost on this machine and which of them fit: a cost model fitted to short probes, and its use."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from autotune.core.config_paths import flatten, get_path, with_paths
from autotune.core.errors import UserError
from autotune.engine.cost_model import CostModel, Counts, Measured
from autotune.engine.probes import Probe
from autotune.engine.worker import Slot, Worker
from autotune.machine.hardware import HardwareProfile
from autotune.night.foresight import least_bytes, require_memory
from autotune.night.probing import Place, config_on, probe
from autotune.search.dimension import Dimension, Value
from autotune.search.space import SearchSpace
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

_MERGED = 4
"""Micro-batches merged, or parts of one, in the probes that tell what the size of a pass changes."""
_MAX_MICRO_BATCH_POWER = 20
"""Micro-batches are looked for below two to this power, in sequences."""


@dataclass(frozen=True)
class BatchPaths:
    """Dotted paths of the settings that decide the shape of a batch.

    Args:
        micro_batch: Sequences of a micro-batch.
        accumulation: Micro-batches of an optimizer step.
        max_pass: Most sequences of one pass, 0 for a micro-batch.
    """

    micro_batch: str
    accumulation: str
    max_pass: str

    @classmethod
    def of(cls, study: Study) -> BatchPaths | None:
        """Return those of a study's trainer, None if it has not all three of them."""
        micro_batch = study.trainer.path_of("micro_batch_size")
        accumulation = study.trainer.path_of("grad_accum_steps")
        max_pass = study.trainer.path_of("max_pass_sequences")
        if micro_batch is None or accumulation is None or max_pass is None:
            return None

        known = flatten(study.spec.base)
        if not {micro_batch, accumulation, max_pass} <= known.keys():
            return None
        return cls(micro_batch, accumulation, max_pass)


def cost_model(place: Place, baseline: Probe, worker: Worker) -> CostModel | None:
    """Probe a few shapes and fit what optimizer steps cost.

    Args:
        place: Where to train.
        baseline: The probe of the baseline.
        worker: What trained it, and goes on with the others.

    Returns:
        None if the trainer counts nothing or its config has no passes to choose.
    """
    with contextlib.ExitStack() as others:

        def taken(changes: Mapping[str, Any]) -> Probe | None:
            nonlocal worker
            try:
                return probe(place, changes, worker)
            except UserError:
                if place.stopped():
                    raise
                # Too large for this device, most likely: the others say enough to know that.
                worker.kill()
                worker = others.enter_context(place.worker())
                return None

        return fitted(place.study, place.profile, baseline, taken)


def fitted(
    study: Study, profile: HardwareProfile, baseline: Probe, taken: Callable[[Mapping[str, Any]], Probe | None]
) -> CostModel | None:
    """Fit what optimizer steps cost to the baseline and a few other shapes.

    Args:
        study: The study.
        profile: The hardware.
        baseline: The probe of the baseline.
        taken: Takes changes of the baseline, by dotted path, and returns a probe; None if there is none.

    Returns:
        None if the trainer counts nothing or its config has no passes to choose.
    """
    paths = BatchPaths.of(study)
    if paths is None or _measured(study, profile, {}, baseline) is None:
        return None

    shapes: list[Mapping[str, Any]] = [{}, *_shapes(study, profile, paths, baseline)]
    probes = [baseline, *(taken(changes) for changes in shapes[1:])]
    measured = [
        _measured(study, profile, changes, each)
        for changes, each in zip(shapes, probes, strict=True)
        if each is not None
    ]
    return CostModel.fit([each for each in measured if each is not None])


def _measured(study: Study, profile: HardwareProfile, changes: Mapping[str, Any], taken: Probe) -> Measured | None:
    counts = _counts(study, profile, changes, taken.facts)
    if counts is None or not taken.tokens_per_s or not taken.peak_bytes:
        return None
    return Measured(counts, counts.step_tokens / taken.tokens_per_s, taken.peak_bytes)


def _counts(
    study: Study, profile: HardwareProfile, changes: Mapping[str, Any], facts: Mapping[str, Any]
) -> Counts | None:
    """Return the counts of a configuration as it would run on this hardware, None if they are not known."""
    if BatchPaths.of(study) is None:
        return None
    values = study.trainer.counts(config_on(study, profile, changes), facts)
    return None if values is None else Counts.of(values)


def _shapes(study: Study, profile: HardwareProfile, paths: BatchPaths, baseline: Probe) -> list[dict[str, Any]]:
    """Return what to probe beside the baseline: smaller passes, larger ones, and the corner with most weights."""
    base = study.spec.base
    micro_batch = int(get_path(base, paths.micro_batch))
    accumulation = int(get_path(base, paths.accumulation))
    shapes: list[dict[str, Any]] = [
        {paths.max_pass: max(1, micro_batch // _MERGED)},
        {paths.accumulation: _MERGED * accumulation, paths.max_pass: _MERGED * micro_batch},
    ]

    def weights(changes: Mapping[str, Any]) -> float:
        counts = _counts(study, profile, changes, baseline.facts)
        return counts.weights if counts is not None else 0.0

    # What cannot fit is told by its counts, and would only hang or kill the probe.
    def fits(corner: Mapping[str, Any]) -> bool:
        return least_bytes(study, profile, corner) <= profile.memory_bytes

    fitting_corners = [corner for corner in _corners(study.spec.space, base) if fits(corner)]
    heaviest = max([{}, *fitting_corners], key=weights)
    if weights(heaviest) > weights({}):
        shapes.append(heaviest)
    return shapes


def _corners(space: SearchSpace, base: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(corner) for corner in space.at_limits().corners(base)] or [{}]


def fitting(
    study: Study, model: CostModel, profile: HardwareProfile, facts: Mapping[str, Any]
) -> dict[str, tuple[Value, ...]]:
    """Return what is left of choices and ranges of whole numbers of which some values cannot fit on this device.

    A value cannot fit if it does not fit even with one sequence at a time and everything else as small as possible.

    Args:
        study: The study.
        model: What optimizer steps cost.
        profile: The hardware with its memory.
        facts: What the trainer said of a probe.

    Returns:
        The choices left, or low and high, by dotted path; nothing for settings that fit whole.
    """
    corners = _corners(study.spec.space, study.spec.base)
    paths = BatchPaths.of(study)
    assert paths is not None, "costs are known of trainers with passes to choose"

    def fits(path: str, value: Value) -> bool:
        for corner in corners:
            counts = _counts(study, profile, {**corner, path: value, paths.max_pass: 1}, facts)
            if counts is None or model.fits(counts, profile.memory_bytes):
                return True
        return False

    left: dict[str, tuple[Value, ...]] = {}
    for path, dimension in study.spec.space.root.items():
        if dimension.choices is None and not dimension.is_integer:
            continue

        kept = _kept(dimension, partial(fits, path))
        is_cut = len(kept) < len(dimension.choices or ()) or kept[-1:] != dimension.ends()[-1:]
        # If what the baseline has is said not to fit, it is the model that errs.
        if is_cut and _is_among(get_path(study.spec.base, path), kept, dimension):
            left[path] = kept
    return left


def _is_among(value: Any, kept: tuple[Value, ...], dimension: Dimension) -> bool:
    """Return whether a value is one of those that `_kept` returned, or lies between them."""
    if dimension.choices is not None or not kept:
        return value in kept
    lowest, highest = kept
    return bool(lowest <= value <= highest) and dimension.is_on_grid(value)


def _kept(dimension: Dimension, fits: Callable[[Value], bool]) -> tuple[Value, ...]:
    """Return the choices that fit, or the lowest and the highest value of a range that does; empty if none does."""
    if dimension.choices is not None:
        return tuple(value for value in dimension.choices if fits(value))

    # Larger whole numbers never take less, so that a search by halves has to ask about few of them.
    indices = range(dimension.num_values)
    too_large = bisect.bisect_left(indices, True, key=lambda index: not fits(dimension.value(index)))
    if not too_large:
        return ()
    return dimension.value(0), dimension.value(too_large - 1)


def describe_left(spec: StudySpec, path: str, left: Sequence[Value], profile: HardwareProfile) -> str:
    """Return in words which values of a setting are left, since the others do not fit.

    Args:
        spec: The study.
        path: The setting.
        left: What is left of it, as `fitting` returns it.
        profile: The hardware with its memory.
    """
    kept = f"{left[0]} to {left[-1]}"
    if spec.space[path].choices is not None:
        kept = ", ".join(map(str, left))
    size = f"{profile.memory_bytes / 2**30:.1f} GiB"
    return f"{path} is limited to {kept}: its other values do not fit into {size}, even with one sequence at a time"


def choose_pass(
    study: Study,
    model: CostModel,
    profile: HardwareProfile,
    facts: Mapping[str, Any],
    left: Mapping[str, Sequence[Any]] | None = None,
) -> int:
    """Return the most sequences that one pass shall have: fast, and small enough for every corner of the space.

    Args:
        study: The study.
        model: What optimizer steps cost.
        profile: The hardware with its memory.
        facts: What the trainer said of a probe.
        left: Choices and ranges that are left, as `fitting` returns them.

    Returns:
        0 if not even one sequence fits, or the study file chooses itself.
    """
    paths = BatchPaths.of(study)
    assert paths is not None, "costs are known of trainers with passes to choose"
    if paths.max_pass in study.explicit:
        return 0

    base = study.spec.base
    micro_batch = int(get_path(base, paths.micro_batch))
    corners = _corners(study.spec.space.with_ranges(left or {}), base)
    accumulation = max(int(get_path(with_paths(base, corner), paths.accumulation)) for corner in corners)

    # Whole micro-batches up to all of a batch, or equal parts of one.
    sizes = {micro_batch * merged for merged in range(1, accumulation + 1)}
    sizes |= {size for size in range(1, micro_batch) if micro_batch % size == 0}
    candidates = {}
    for size in sizes:
        counted = [_counts(study, profile, {**corner, paths.max_pass: size}, facts) for corner in corners]
        candidates[size] = [counts for counts in counted if counts is not None]
    return model.best_pass(candidates, profile.memory_bytes)


def speedup(study: Study, model: CostModel, profile: HardwareProfile, facts: Mapping[str, Any], size: int) -> float:
    """Return how many times as fast the baseline is with passes of some size as with those of its probe.

    Args:
        study: The study.
        model: What optimizer steps cost.
        profile: The hardware.
        facts: What the trainer said of a probe.
        size: Most sequences of a pass; 0 for those of the probe.
    """
    paths = BatchPaths.of(study)
    before = _counts(study, profile, {}, facts)
    after = _counts(study, profile, {paths.max_pass: size}, facts) if paths and size else None
    if before is None or after is None:
        return 1.0
    return model.tokens_per_s(after) / model.tokens_per_s(before)


def largest_micro_batch(study: Study, profile: HardwareProfile, slot: Slot) -> int:
    """Return the most sequences of one pass of the baseline that the cost model lets fit; 0 if unknown.

    Args:
        study: The study.
        profile: The hardware with its memory.
        slot: Where to train.

    Raises:
        UserError: If the baseline does not train.
    """
    require_memory(study, profile)
    place = Place(study, profile, slot)
    with place.worker() as worker:
        baseline = probe(place, worker=worker)
        model = cost_model(place, baseline, worker)
    paths = BatchPaths.of(study)
    if model is None or paths is None:
        return 0

    def fits(size: int) -> bool:
        alone = {paths.micro_batch: size, paths.accumulation: 1, paths.max_pass: 0}
        counts = _counts(study, profile, alone, baseline.facts)
        return counts is not None and model.fits(counts, profile.memory_bytes)

    # Binary search, from the highest binary digit to the lowest: more sequences never take less.
    largest = 0
    for power in reversed(range(_MAX_MICRO_BATCH_POWER)):
        if fits(largest + 2**power):
            largest += 2**power
    return largest
