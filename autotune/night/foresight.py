"""Models too large for this machine or this night, told from the counts of their trainer before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.core.errors import UserError
from autotune.core.text import in_bytes, shown
from autotune.finals.allotment import least_study_s, refuse_trials_of
from autotune.machine.hardware import HardwareProfile
from autotune.night.probing import HOPELESS, config_on
from autotune.study.study_file import Study

_PASS_SHARE = 0.5
"""Share of the counted memory of a pass that is certain; the count itself is an estimate."""


def require_memory(study: Study, profile: HardwareProfile) -> None:
    """Refuse a study whose baseline, or whose largest configuration on a CPU, cannot fit into the memory.

    On a GPU the planner leaves out what does not fit; a CPU would take the whole machine down with it.

    Args:
        study: The study.
        profile: The hardware with its memory.

    Raises:
        UserError: With what is needed and what there is.
    """
    _require(study, profile, {}, "the model of [base]", "make it smaller")
    if profile.device == "cuda":
        return

    for corner in study.spec.space.at_limits().corners(study.spec.base):
        words = ", ".join(f"{path} = {shown(value)}" for path, value in corner.items())
        _require(study, profile, corner, f"a model with {words}, which the search may propose,", "narrow [space]")


def _require(study: Study, profile: HardwareProfile, changes: Mapping[str, Any], what: str, way_out: str) -> None:
    needed_bytes = least_bytes(study, profile, changes)
    # A machine that does not report its memory has 0.
    if needed_bytes <= profile.memory_bytes or not profile.memory_bytes:
        return

    device = profile.name or profile.cpu_name or profile.device
    raise UserError(
        f"{what} needs {in_bytes(needed_bytes)} of memory or more, "
        f"but {device} has {in_bytes(profile.memory_bytes)}: {way_out}"
    )


def least_bytes(study: Study, profile: HardwareProfile, changes: Mapping[str, Any]) -> float:
    """Return the least memory that a training can take; 0 if the trainer does not count without a run before.

    Args:
        study: The study.
        profile: The hardware.
        changes: Settings other than the baseline's, by dotted path.
    """
    counted = _counted(study, profile, changes)

    # Passes are made smaller on a GPU, if the study file leaves that open.
    pass_share = 0.0 if profile.device == "cuda" else _PASS_SHARE
    return counted.get("fixed_bytes", 0.0) + pass_share * counted.get("pass_bytes", 0.0)


def require_time(study: Study, profile: HardwareProfile, left_s: float, slots: int) -> None:
    """Refuse a study that would be far too long even if its trials were nothing but the fastest matrix products.

    Args:
        study: The study.
        profile: The hardware with its speeds.
        left_s: Seconds to the deadline; infinite without one.
        slots: Devices that train at once, >= 1.

    Raises:
        UserError: With the hours that would be needed at least.
    """
    trial_s = least_trial_s(study, profile)
    if least_study_s(study.spec, trial_s, slots) > HOPELESS * left_s:
        raise refuse_trials_of(study.spec, trial_s, slots, "more than")


def least_trial_s(study: Study, profile: HardwareProfile) -> float:
    """Return the least seconds of a trial of the baseline; 0 if the trainer does not count without a run before.

    Args:
        study: The study.
        profile: The hardware with its speeds.
    """
    counted = _counted(study, profile, {})
    flops_per_s = max(profile.matmul_flops.values(), default=0.0)
    step_tokens = counted.get("step_tokens", 0.0)
    if not flops_per_s or not step_tokens:
        return 0.0

    steps = study.spec.budget.tokens / step_tokens
    return steps * counted.get("passes", 0.0) * counted.get("pass_flops", 0.0) / flops_per_s


def _counted(study: Study, profile: HardwareProfile, changes: Mapping[str, Any]) -> Mapping[str, float]:
    """Return what a trainer counts of a training, nothing if it cannot without a run before."""
    try:
        return study.trainer.counts(config_on(study, profile, changes), {}) or {}
    except UserError:
        return {}
