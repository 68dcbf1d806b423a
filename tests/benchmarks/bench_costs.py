"""Seconds and bytes of training steps over many shapes, and how well the planner's cost model knows them from few.

usage: python tests/benchmarks/bench_costs.py [--emulate t4] [--out shapes.jsonl] [--read shapes.jsonl] [--card H100]

Each shape (experts, sequences of a pass, length) is measured with one pass to an optimizer step on random tokens;
one that does not fit is noted as such.
The model is then fitted on the five shapes that a plan would probe around 24 x 512 with 8 of at most 32 experts, and
compared with all of them. `--read` fits recorded shapes and needs no GPU.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from autotune.engine.cost_model import CostModel, Counts, Measured
from autotune.machine.cards import Card, card_named
from model.config import TrainConfig
from model.counts import counts
from model.loss import chunk_rows
from model.training.learner import Learner

VOCAB_SIZE = 50_304
EXPERTS = (4, 8, 16, 32)
PASSES = ((4, 256), (24, 256), (96, 256), (4, 512), (24, 512), (48, 512), (96, 512), (4, 1024), (24, 1024), (96, 1024))
PROBED = ((8, 24, 512), (8, 6, 512), (8, 96, 512), (32, 24, 512), (32, 96, 512))
"""Experts, sequences and length of the probes: the baseline, a smaller and a larger pass, and most weights."""
T4_BYTES = 15 * 2**30
REPEATS = 5
DEFAULT_HEADS = 3, 3


def config_of(
    experts: int, sequences: int, seq_len: int, t4: bool, heads: Sequence[int] = DEFAULT_HEADS
) -> TrainConfig:
    """Return the overnight study's model at a shape, with so many heads for queries and for keys and values."""
    num_heads, num_kv_heads = heads
    shape = {"num_experts": experts, "seq_len": seq_len, "num_heads": num_heads, "num_kv_heads": num_kv_heads}
    return TrainConfig.model_validate(
        {
            "model": shape,
            "system": {"micro_batch_size": sequences, "flash_attention": not t4},
        }
    )


def measure(shape: tuple[int, int, int], dtype: torch.dtype, t4: bool) -> dict[str, Any]:
    """Return a shape's seconds of a pass and of an update, and its peak bytes, on the current GPU."""
    _, sequences, seq_len = shape
    device = torch.device("cuda", torch.cuda.current_device())
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    learner = Learner(config_of(*shape, t4), VOCAB_SIZE, device, dtype)
    tokens = torch.randint(VOCAB_SIZE, (sequences, seq_len + 1), device=device, dtype=torch.int32)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def both() -> None:
        learner.accumulate(inputs, targets)
        learner.update(0.1)

    try:
        step_ms, peak_mib = round(1e3 * seconds_of(both), 3), round(learner.peak_bytes / 2**20, 1)
    except torch.cuda.OutOfMemoryError:
        step_ms = peak_mib = math.inf
    return {
        "shape": shape,
        "heads": DEFAULT_HEADS,
        "step_ms": step_ms,
        "peak_mib": peak_mib,
        "facts": {
            "vocab_size": VOCAB_SIZE,
            "dtype": str(dtype).removeprefix("torch."),
            "chunk_rows": chunk_rows(VOCAB_SIZE, device),
        },
    }


def seconds_of(work: Callable[[], None]) -> float:
    """Return the median seconds of some work, the device at rest before and after."""
    work()
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measured_of(row: Mapping[str, Any]) -> Measured:
    """Return a recorded shape as the planner would have it of a probe."""
    return Measured(Counts.of(counted_of(row)), row["step_ms"] / 1e3, row["peak_mib"] * 2**20)


def counted_of(row: Mapping[str, Any]) -> Mapping[str, float]:
    """Return all that the trainer counts of a recorded shape."""
    t4 = row["facts"]["dtype"] == "float16"
    return counts(config_of(*row["shape"], t4, row["heads"]), row["facts"])


def published_shares(rows: Sequence[Mapping[str, Any]], card: Card) -> tuple[float, float, list[float]]:
    """Return which shares of a card's published rates recorded shapes reach, and how far off each shape then is.

    Args:
        rows: Recorded shapes.
        card: The card that they were measured on.

    Returns:
        Of operations, of bytes, and relative errors of the seconds.
    """
    fitting = [row for row in rows if math.isfinite(row["step_ms"])]
    ideal_s = []
    for counted in map(counted_of, fitting):
        flops = counted["passes"] * counted["pass_flops"] + counted["update_flops"]
        moved = counted["passes"] * counted["pass_moved_bytes"] + counted["update_moved_bytes"]
        ideal_s.append([flops / card.flops_per_s, moved / card.bytes_per_s])

    relative = np.array(ideal_s) / np.array([row["step_ms"] / 1e3 for row in fitting])[:, None]
    slowness, _ = nnls(relative, np.ones(len(relative)))
    return 1 / slowness[0], 1 / slowness[1], list(relative @ slowness - 1)


def errors(rows: Sequence[Mapping[str, Any]]) -> list[tuple[tuple[int, ...], float, float]]:
    """Return each shape with the relative errors of its seconds and bytes, predicted from the probed shapes."""
    found = [(tuple(row["shape"]), measured_of(row)) for row in rows if math.isfinite(row["step_ms"])]
    model = CostModel.fit([each for shape, each in found if shape in PROBED])
    return [
        (
            shape,
            model.optimizer_step_s(each.counts) / each.optimizer_step_s - 1,
            model.peak_bytes(each.counts) / each.peak_bytes - 1,
        )
        for shape, each in found
    ]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulate", choices=["t4"], help="15 GiB, fp16, no flash attention")
    parser.add_argument("--out", type=Path, help="write the measured shapes here, one a line")
    parser.add_argument("--read", type=Path, help="fit these shapes instead of measuring")
    parser.add_argument("--card", help="say which shares of this card's published rates the shapes reach")
    args = parser.parse_args()
    if args.read:
        rows = [json.loads(line) for line in args.read.read_text(encoding="utf-8").splitlines()]
    elif not torch.cuda.is_available():
        raise SystemExit("measuring needs a CUDA device; --read fits recorded shapes anywhere")
    else:
        t4 = args.emulate == "t4"
        if t4:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, T4_BYTES / total))
        dtype = torch.float16 if t4 else torch.bfloat16
        shapes = list(dict.fromkeys([*PROBED, *((e, *rest) for e, rest in itertools.product(EXPERTS, PASSES))]))
        measure(shapes[0], dtype, t4)  # libraries set up their workspaces with the first one
        rows = [measure(shape, dtype, t4) for shape in shapes]
        if args.out:
            args.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print("| experts | pass | step, measured | off | peak, measured | off |\n|---|---|---|---|---|---|")
    found = errors(rows)
    fitting = [row for row in rows if math.isfinite(row["step_ms"])]
    for row, (shape, seconds, memory) in zip(fitting, found, strict=True):
        name = f"| {shape[0]} | {shape[1]} x {shape[2]} | {row['step_ms']:.1f} ms | {seconds:+.1%}"
        print(f"{name} | {row['peak_mib'] / 1024:.2f} GiB | {memory:+.1%} |")
    for row in rows:
        if row not in fitting:
            print("did not fit:", *row["shape"])
    for name, values in (("seconds", [each[1] for each in found]), ("bytes", [each[2] for each in found])):
        sizes = [abs(value) for value in values]
        print(f"{name}: at most {max(sizes):.1%} off, {statistics.mean(sizes):.1%} on average, {len(sizes)} shapes")
    if args.card:
        of_flops, of_bytes, off = published_shares(rows, card_named(args.card))
        sizes = [abs(value) for value in off]
        print(
            f"reached: {of_flops:.2f} of the published operations, then {of_bytes:.2f} of the bytes; at most ", end=""
        )
        print(f"{max(sizes):.0%} off, {statistics.mean(sizes):.0%} on average")


if __name__ == "__main__":
    main()
