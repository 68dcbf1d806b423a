"""What this machine is and how fast it was measured to be: one frozen `HardwareProfile`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


class HardwareError(RuntimeError):
    """The machine cannot do what was asked; the message says what, the value, and the way out."""


@dataclass(frozen=True)
class HardwareProfile:
    """One machine and one device of it, as measured.

    A number that the machine does not report is 0, a text is empty. Clocks, temperature and throttle reasons are those
    at the highest power seen while measuring.

    Args:
        device: "cuda" or "cpu".
        name: The device's name.
        uuid: Value of CUDA_VISIBLE_DEVICES that pins a process to it.
        index: Its physical index; -1 on the CPU.
        count: GPUs that are visible.
        memory_bytes: What a run may use: the GPU's total, the emulated card's, or the RAM.
        cuda_version: The CUDA version that torch was built for.
        cpu_count: Physical cores that this process may use.
        matmul_flops: FLOP/s of matrix products by dtype; fp32 is without TF32.
        matmul_flops_warm: FLOP/s of `dtype` after about 10 s of load; 0 when not measured.
        copy_bytes_per_s: Bytes read and written per second.
        dtype: What to train in: "bf16", "fp16" or "fp32".
        emulate: "" or the card that is emulated.
        measured_at: ISO 8601 with zone.
        noise: Interquartile range over the median of the repeated products in `dtype`.
    """

    device: str
    name: str
    uuid: str
    index: int
    count: int
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
    power_limit_w: float
    power_default_w: float
    sm_clock_hz: float
    sm_clock_max_hz: float
    memory_clock_hz: float
    temperature_c: float
    throttle_reasons: tuple[str, ...]
    matmul_flops: dict[str, float]
    matmul_flops_warm: float
    copy_bytes_per_s: float
    dtype: str
    flash_attention: bool
    emulate: str
    measured_at: str
    noise: float

    def to_json(self) -> dict[str, Any]:
        """Return the profile as plain JSON values, which `from_json` reads back."""
        return dataclasses.asdict(self) | {"throttle_reasons": list(self.throttle_reasons)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> HardwareProfile:
        """Return the profile that `to_json` wrote.

        Raises:
            HardwareError: A key is missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}

        if stored.keys() != known:
            wrong = ", ".join(sorted(stored.keys() ^ known))
            raise HardwareError(
                f"the stored hardware profile has missing or unknown keys: {wrong}; profile the machine again"
            )

        return cls(**(stored | {"throttle_reasons": tuple(stored["throttle_reasons"])}))

    def overrides(self) -> dict[str, object]:
        """Return what the engine fills into each trial's config.

        Returns:
            Values by the role of a setting (`Role` in `study/trainer_interface.py`); `memory_bytes` is 0 (no cap)
            unless a card is emulated.
        """
        return {
            "device": self.device,
            "dtype": self.dtype,
            "memory_bytes": self.memory_bytes if self.emulate else 0,
            "flash_attention": self.flash_attention,
        }
