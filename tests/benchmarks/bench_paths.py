"""Losses of short trainings on the path of each kind of card: the card at hand, and others' kernels run on it.

usage: python tests/benchmarks/bench_paths.py TRAIN.bin VAL.bin [--tokens 1536000] [--seeds 3]
       [--study studies/overnight.toml]

The files hold token ids (uint16, GPT-2's vocabulary and end of text). Every path trains the study's default settings
with the same seeds; kernels of an older card are generated for it and run on the card at hand (`other_card.py`).
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
from bench_recipe import MERGED, interval, text_settings, train_one

from autotune.core.config_paths import with_paths
from autotune.study.study_file import load

PATHS: dict[str, tuple[int, dict[str, Any]]] = {
    "bf16 of the card at hand": (0, {"system.dtype": "bf16"}),
    "fp16 of the card at hand": (0, {"system.dtype": "fp16"}),
    "bf16 as on compute capability 8.6": (86, {"system.dtype": "bf16"}),
    "fp16 as on compute capability 8.6": (86, {"system.dtype": "fp16"}),
    "fp16 as on compute capability 7.5": (75, {"system.dtype": "fp16", "system.flash_attention": False}),
}
"""Compute capability to pretend, 0 for none, and settings."""


def train_on_path(jobs: list[tuple[dict[str, Any], int, int]], capability: int) -> list[tuple[float, float]]:
    """Return last losses and tokens per second of trainings, in a process that may pretend another card."""
    if capability:
        from other_card import pretend

        pretend(capability)
    return [train_one(job) for job in jobs]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--tokens", type=int, default=1_536_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--study", type=Path, default=Path(__file__).parents[2] / "studies" / "overnight.toml")
    args = parser.parse_args()

    base = with_paths(load(args.study).spec.base, text_settings(args.train, args.val) | MERGED)
    context = multiprocessing.get_context("spawn")
    own = np.array([])
    print("| path | losses | above the first path's |\n|---|---|---|")
    for name, (capability, settings) in PATHS.items():
        jobs = [(with_paths(base, settings | {"seed": seed}), args.tokens, 0) for seed in range(args.seeds)]
        with context.Pool(1) as pool:
            losses = np.array([loss for loss, _ in pool.apply(train_on_path, (jobs, capability))])

        own = own if own.size else losses
        shown = ", ".join(f"{loss:.4f}" for loss in losses)
        print(f"| {name} | {shown} | {interval(losses - own) if losses is not own else ''} |", flush=True)


if __name__ == "__main__":
    main()
