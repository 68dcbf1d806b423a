"""GPUs that people own, by published figures: what a plan for a card that is not there reckons with."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from autotune.core.errors import UserError
from autotune.machine.hardware import HardwareProfile
from autotune.machine.measurement import dtype_for

_FLOPS_SHARE, _BYTES_SHARE = 0.72, 0.58
"""Shares of the published rates that passes and updates reach, the one after the other: the least squares of 40 shapes
that an H100 was measured with, from which they are 6 % off on average and 29 % at most. For an H200 they say 6 to 14 %
more than was measured (tests/benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet.

    Args:
        name: As its maker writes it.
        capability: CUDA compute capability.
        memory_bytes: Its memory.
        flops_per_s: Dense matrix products in half precision with sums in fp32.
        bytes_per_s: Memory bandwidth.
        power_w: Board power.
        sustained_flops_per_s: What was published of matrix products that last, where power holds them far below that;
            0 where they follow from the data sheet.
    """

    name: str
    capability: str
    memory_bytes: float
    flops_per_s: float
    bytes_per_s: float
    power_w: float
    sustained_flops_per_s: float = 0.0

    def profile(self) -> HardwareProfile:
        """Return the profile that a measurement is expected to give."""
        dtype = dtype_for(self.capability)
        flops_per_s = self.sustained_flops_per_s or _FLOPS_SHARE * self.flops_per_s
        return HardwareProfile(
            device="cuda",
            name=self.name,
            uuid="",
            index=0,
            count=1,
            memory_bytes=int(self.memory_bytes),
            capability=self.capability,
            driver_version="",
            cuda_version="",
            torch_version="",
            python_version="",
            platform="",
            cpu_name="",
            cpu_count=0,
            ram_bytes=0,
            power_limit_w=self.power_w,
            power_default_w=self.power_w,
            sm_clock_hz=0.0,
            sm_clock_max_hz=0.0,
            memory_clock_hz=0.0,
            temperature_c=0.0,
            throttle_reasons=(),
            matmul_flops={dtype: flops_per_s},
            matmul_flops_warm=flops_per_s,
            copy_bytes_per_s=_BYTES_SHARE * self.bytes_per_s,
            dtype=dtype,
            flash_attention=dtype == "bf16",
            emulate="",
            measured_at="",
            noise=0.0,
        )


_GIB = float(2**30)
CARDS = {
    card.name: card
    for card in (
        # 25 TFLOP/s: what its 70 W sustain; 15 GiB: what CUDA gives of its 16.
        Card("T4", "7.5", 15 * _GIB, 65e12, 320e9, 70, sustained_flops_per_s=25e12),
        Card("L4", "8.9", 22 * _GIB, 121e12, 300e9, 72),
        Card("A10", "8.6", 22 * _GIB, 125e12, 600e9, 150),
        Card("RTX 3060", "8.6", 12 * _GIB, 25.5e12, 360e9, 170),
        Card("RTX 3090", "8.6", 24 * _GIB, 71e12, 936e9, 350),
        Card("RTX 4090", "8.9", 24 * _GIB, 165.2e12, 1_008e9, 450),
        Card("RTX 5090", "12.0", 32 * _GIB, 209.5e12, 1_792e9, 575),
        Card("A100", "8.0", 40 * _GIB, 312e12, 1_555e9, 400),
        Card("H100", "9.0", 80 * _GIB, 989.4e12, 3_350e9, 700),
        Card("H200", "9.0", 141e9, 989.4e12, 4_800e9, 700),
    )
}
"""By name. Source: NVIDIA's data sheets and architecture papers; of the RTX cards the rate with sums in fp32."""


def card_of(profile: HardwareProfile) -> Card | None:
    """Return the card whose name a measured device has, such as "NVIDIA GeForce RTX 3090"; None if it is not known."""
    words = re.split(r"[ -]", profile.name)
    found = [card for card in CARDS.values() if set(card.name.split()) <= set(words)]
    return found[0] if found else None


def card_named(name: str) -> Card:
    """Return a card by its name, or by the end of it, in upper or lower case.

    Args:
        name: Such as "T4", "rtx 4090" or "4090".

    Raises:
        UserError: If there is none of that name.
    """
    asked = " ".join(name.lower().split())
    for card in CARDS.values():
        if asked in (card.name.lower(), card.name.lower().removeprefix("rtx ")):
            return card

    near = difflib.get_close_matches(asked, [known.lower() for known in CARDS], n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    raise UserError(f'no figures of a card "{name}" are known{hint}; there are {", ".join(CARDS)}')
