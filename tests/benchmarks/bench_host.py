"""What the host takes to launch a pass, on one core, beside what a T4 is expected to take for it.

usage: python tests/benchmarks/bench_host.py [--as-on 75] [--experts 8 16]

A pass of few tokens is launched as often as the large ones are, while a fast card has next to nothing to do: its
seconds are the host's. The process is held to one core.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from bench_costs import VOCAB_SIZE, config_of, seconds_of

from autotune.machine.cards import card_named
from model.counts import counts
from model.ops.precision import choose_dtype
from model.training.learner import Learner

FEW, SIZES = 2, (24, 96)
"""Sequences of a pass that is all launches, and of those that are reasoned about."""
SEQ_LEN = 512


def host_s(experts: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds in which a pass is launched."""
    config = config_of(experts, FEW, SEQ_LEN, t4=dtype == torch.float16)
    learner = Learner(config, VOCAB_SIZE, device, dtype)
    tokens = torch.randint(VOCAB_SIZE, (FEW, SEQ_LEN + 1), device=device, dtype=torch.int32)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return seconds_of(lambda: learner.accumulate(inputs, targets))


def t4_s(experts: int, sequences: int) -> float:
    """Return the seconds that a T4 is expected to compute for a pass."""
    profile = card_named("T4").profile()
    facts = {"vocab_size": VOCAB_SIZE, "dtype": "float16", "memory_bytes": profile.memory_bytes}
    counted = counts(config_of(experts, sequences, SEQ_LEN, t4=True), facts)
    moved_s = counted["pass_moved_bytes"] / profile.copy_bytes_per_s
    return counted["pass_flops"] / profile.matmul_flops["fp16"] + moved_s


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as-on", type=int, help="kernels as on another compute capability")
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 16])
    args = parser.parse_args()
    if args.as_on:
        from other_card import pretend

        pretend(args.as_on)

    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    device = torch.device("cuda", torch.cuda.current_device())
    dtype = choose_dtype(config_of(8, FEW, SEQ_LEN, t4=True).system, device)

    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    print(f"{torch.cuda.get_device_name(device)}, one core of {cpu.partition(': ')[2]}, {dtype}\n")
    print("| experts | host, a pass |", *(f"T4, {size} x {SEQ_LEN} | host's share |" for size in SIZES))
    print("|---|---|" + "---|---|" * len(SIZES))
    for experts in args.experts:
        launched_s = host_s(experts, device, dtype)
        cells = [f"| {experts} | {1e3 * launched_s:.1f} ms |"]
        for size in SIZES:
            expected_s = t4_s(experts, size)
            cells.append(f"{1e3 * expected_s:.0f} ms | {launched_s / expected_s:.0%} |")
        print(*cells)


if __name__ == "__main__":
    main()
