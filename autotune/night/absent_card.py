"""A night on a card that is not there: its plan by published figures of the card and by what the trainer counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.engine.cost_model import Counts
from autotune.engine.deadline import Deadline
from autotune.engine.probes import Probe
from autotune.machine.hardware import HardwareProfile
from autotune.night import capacity
from autotune.night.foresight import require_memory, require_time
from autotune.night.planner import Survey, planned
from autotune.night.probing import config_on
from autotune.study.study_file import Study

_NEEDED = ("pass_moved_bytes", "update_flops", "update_moved_bytes", "evaluation_passes", "pass_host_s")
"""What is reckoned with beside `Counts`."""
_TORCH_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def survey_of(study: Study, profile: HardwareProfile, prepared: Mapping[str, Any], deadline: Deadline) -> Survey:
    """Plan a night on a card from its published figures.

    Args:
        study: The study.
        profile: The card's, as `Card.profile` returns it.
        prepared: What the trainer said when its data were made ready.
        deadline: When everything must be done.

    Raises:
        UserError: If the trainer does not count what this needs, or if the study does not fit into memory or time.
    """
    require_memory(study, profile)
    require_time(study, profile, deadline.seconds_left, 1)

    expected = partial(_expected_probe, study, profile, prepared)
    baseline = expected({})
    model = capacity.fitted(study, profile, baseline, expected)
    return planned(study, profile, 1, deadline.seconds_left, baseline, model)


def _expected_probe(
    study: Study, profile: HardwareProfile, prepared: Mapping[str, Any], changes: Mapping[str, Any]
) -> Probe:
    """Return what a short training would measure: its operations and the bytes that it moves, one after the other.

    The host's launches go on beside them.
    """
    card = {"memory_bytes": profile.memory_bytes, "capability": profile.capability}
    facts = {**prepared, **card, "dtype": _TORCH_DTYPES[profile.dtype]}
    values = study.trainer.counts(config_on(study, profile, changes), facts)
    if values is None or not set(_NEEDED) <= values.keys():
        raise UserError(
            f"a plan for a card that is not there needs {', '.join(_NEEDED)} from the function counts of "
            f"{study.spec.trainer}; run `autotune plan` on the card itself"
        )

    counts = Counts.of(values)
    flops_per_s = profile.matmul_flops[profile.dtype]
    device_s = counts.pass_flops / flops_per_s + values["pass_moved_bytes"] / profile.copy_bytes_per_s
    pass_s = max(device_s, values["pass_host_s"])
    update_s = values["update_flops"] / flops_per_s + values["update_moved_bytes"] / profile.copy_bytes_per_s
    step_s = counts.passes * pass_s + update_s

    tokens = study.spec.budget.tokens
    path = study.trainer.path_of("num_evals")
    return Probe(
        tokens_per_s=counts.step_tokens / step_s,
        eval_s=values["evaluation_passes"] * pass_s,
        evaluations=int(flatten(study.spec.base).get(path or "", 0)),
        seconds=step_s * math.ceil(tokens / counts.step_tokens),
        tokens=tokens,
        peak_bytes=int(counts.fixed_bytes + max(counts.pass_bytes, counts.update_bytes)),
        facts=facts,
    )
