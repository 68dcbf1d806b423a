"""Speed of the trainer and overhead of the engine on this machine, side by side in one run.

usage: python tests/benchmarks/bench_spine.py [--append]      (--append adds the result to RESULTS.md)
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from results import publish

from autotune.machine.measurement import profile
from autotune.night.session import Options, Session
from autotune.study.study_file import load
from model.config import TrainConfig
from model.train import train

ROOT = Path(__file__).parents[2]
FAKE_STUDY = """
name = "overhead"
trainer = "fake_trainer:train"
[budget]
tokens = 1000
trials = 40
[space]
lr = {low = 1e-5, high = 1.0, log = true}
[pruner]
name = "none"
"""


def trainer_speed(repeats: int = 3) -> dict[str, float]:
    """Returns tokens per second of the quickstart's default by expert count; the first run warms up."""
    spec = load(ROOT / "studies" / "quickstart.toml").spec
    speeds = {}
    for num_experts in (4, 8):
        base = {**spec.base, "model": {**spec.base["model"], "num_experts": num_experts}}
        config = TrainConfig.model_validate(base)
        runs = [_tokens_per_s(config) for _ in range(repeats + 1)][1:]
        speeds[f"{num_experts} experts"] = statistics.median(runs)
    return speeds


def _tokens_per_s(config: TrainConfig) -> float:
    seen: list[float] = []

    def report(point: Mapping[str, float]) -> bool:
        seen.append(point["tokens_per_s"])
        return True

    train(config, 40_960, report)
    return statistics.median(seen[1:])


def overhead_per_trial() -> float:
    """Returns seconds per trial of the whole engine around a trainer that takes no time."""
    os.environ["PYTHONPATH"] = str(ROOT / "tests" / "integration")
    import sys

    sys.path.append(os.environ["PYTHONPATH"])
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "overhead.toml"
        study.write_text(FAKE_STUDY)
        started: list[float] = []
        session = Session(
            load(study),
            Options(
                out=Path(folder),
                device="cpu",
                say=lambda line: started.append(time.perf_counter()) if line.startswith("✓ trial") else None,
            ),
        )
        session.work()
    return (started[-1] - started[0]) / (len(started) - 1)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    append = parser.parse_args().append
    machine = profile(quick=True, device="cpu")
    lines = [f"## {datetime.now(UTC):%Y-%m-%d} trainer and engine on a CPU", ""]
    lines.append(
        f"{machine.cpu_name}, {machine.cpu_count} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}; `make bench BENCH=spine`"
    )
    lines += ["", "| what | figure |", "|---|---|"]
    lines.append(f"| fp32 matrix product | {machine.matmul_flops['fp32'] / 1e9:.0f} GFLOP/s |")
    lines += [
        f"| quickstart's default, {name}, training only | {speed:,.0f} tokens/s |"
        for name, speed in trainer_speed().items()
    ]
    lines.append(f"| engine around an instant trainer | {1000 * overhead_per_trial():.0f} ms per trial |")
    publish(lines, append=append)


if __name__ == "__main__":
    main()
