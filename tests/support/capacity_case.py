"""Machines as the planner sees them, and a study whose costs are known by a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.study.study_file import Study, load


class Machine:
    """What the planner reads of a hardware profile, and one that decides nothing."""

    def __init__(self, power_limit_w: float = 0.0, device: str = "cpu", memory_bytes: int = 0) -> None:
        self.power_limit_w = power_limit_w
        self.device = device
        self.memory_bytes = memory_bytes
        self.matmul_flops: dict[str, float] = {}

    def overrides(self) -> dict[str, Any]:
        return {}


def counting_study(tmp_path: Path, base: str = "") -> Study:
    path = tmp_path / "counting.toml"
    path.write_text(
        'name = "counting"\ntrainer = "counting_trainer:train"\n[budget]\ntokens = 100_000\n'
        f"[base.system]\nmicro_batch_size = 8\n{base}\n"
        '[space]\n"optim.grad_accum_steps" = {low = 1, high = 4}\n"model.experts" = {choices = [2, 4, 16]}\n'
    )
    return load(path)
