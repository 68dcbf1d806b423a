"""What the commands that look at the machine answer."""

from __future__ import annotations

from typing import Literal

from autotune.cli.answers.base import Answer, Part


class Finding(Part):
    """What one check of `autotune doctor` found."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    message: str
    remedy: str
    """What to do about it; "" if nothing."""


class Doctor(Answer):
    """Whether this machine is ready."""

    schema_name: Literal["autotune.doctor/1"] = "autotune.doctor/1"

    exit_code: int
    """3 if a check failed, else 0."""

    findings: list[Finding]


class Profile(Answer):
    """What the machine can do, measured. A number that it does not report is 0, a text is empty."""

    schema_name: Literal["autotune.profile/1"] = "autotune.profile/1"

    device: str
    """It is "cuda" or "cpu"."""
    name: str
    """The device's name; "" for the CPU."""
    uuid: str
    index: int
    """Its physical index; -1 on the CPU."""
    count: int
    """GPUs that are visible."""
    memory_bytes: int
    capability: str
    driver_version: str
    cuda_version: str
    torch_version: str
    python_version: str
    platform: str
    cpu_name: str
    cpu_count: int
    ram_bytes: int
    power_limit_w: float | None
    power_default_w: float | None
    sm_clock_hz: float | None
    sm_clock_max_hz: float | None
    memory_clock_hz: float | None
    temperature_c: float | None
    throttle_reasons: list[str]
    matmul_flops: dict[str, float | None]
    """FLOP/s of matrix products by number format."""
    matmul_flops_warm: float | None
    """FLOP/s in `dtype` after 10 s of load; 0 if that was not measured."""
    copy_bytes_per_s: float | None
    dtype: str
    """What to train in."""
    flash_attention: bool
    emulate: str
    measured_at: str
    """ISO 8601."""
    noise: float | None
    """Interquartile range of the repeated products over their median."""
    largest_micro_batch: int | None = None
    """With --study: the largest micro-batch that fits, 0 if unknown; else null."""
    block: str | None = None
    """With --share: what to put into an issue, Markdown; else null."""
