"""SwiGLU inside an expert's products, and slots gathered as they are read, beside what trainings use, on a GPU.

usage: python tests/benchmarks/bench_fused.py [--sequences 24 96] [--experts 8 16] [--dtype bf16]

The shape is that of one layer of the overnight study; times are medians of CUDA events around a CUDA graph of ten
calls. Results are compared first. Of the times in a row the first is what trainings use, the last leaves out the kernel
that copies each slot's token.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import fused_experts as fused
import torch
from bench_experts import DTYPES, STUDY
from torch import Tensor

from autotune.core.config_paths import with_paths
from autotune.study.study_file import load
from model.config import ModelConfig, TrainConfig
from model.ops import grouped
from model.ops.kernels import grouped as kernels
from model.ops.kernels import slots, swiglu

CALLS, TIMES = 10, 20
Results = tuple[Tensor, ...]


def milliseconds(call: Callable[[], Results]) -> float:
    """Return what a call takes, without what its launches cost the host."""
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()

    times = []
    for _ in range(TIMES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / CALLS)
    return statistics.median(times)


def difference(results: Results, expected: Results) -> float:
    """Return the largest difference, as a share of the largest value."""
    pairs = zip(results, expected, strict=True)
    return max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs)


def compare(config: ModelConfig, sequences: int, dtype: torch.dtype) -> None:
    """Print a row for each product."""
    torch.manual_seed(0)
    E, K, D, F = config.num_experts, config.top_k, config.d_model, config.d_ff
    N = sequences * config.seq_len

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype)

    x_ND, dy_ND = random(N, D), random(N, D)
    gate_up, down = random(E, 2 * F, D) * D**-0.5, random(E, D, F) * F**-0.5
    share_NK = torch.rand(N, K, device="cuda")
    # As in a training, not all are chosen alike.
    weights = torch.linspace(2, 1, E, device="cuda") ** 2
    chosen_S = torch.multinomial(weights.expand(N, E), K).flatten()
    order_S = chosen_S.sort(stable=True).indices.int()
    ends_E = chosen_S.bincount(minlength=E).cumsum(0).int()

    def forward_now() -> Results:
        gate_up_SF = grouped.product(slots.to_slots(x_ND, order_S, K), gate_up.mT, ends_E)
        return gate_up_SF, swiglu.swiglu(gate_up_SF, share_NK, order_S)

    gate_up_SF = forward_now()[0]

    def backward_now() -> Results:
        dhidden_SF = grouped.product(slots.to_slots(dy_ND, order_S, K), down, ends_E)
        return swiglu.swiglu_backward(gate_up_SF, share_NK, order_S, dhidden_SF)

    dgate_up_SF, hidden_SF, _ = backward_now()
    x_SD, dy_SD = slots.to_slots(x_ND, order_S, K), slots.to_slots(dy_ND, order_S, K)
    sums = {name: torch.zeros(weight.shape, device="cuda") for name, weight in (("gate_up", gate_up), ("down", down))}

    def weight(name: str, add_: Callable[..., None], *inputs: Any) -> Results:
        add_(sums[name], *inputs)
        return (sums[name],)

    places = order_S, ends_E
    ways: dict[str, list[Callable[[], Results]]] = {
        "forward": [
            forward_now,
            lambda: fused.forward(slots.to_slots(x_ND, order_S, K), gate_up, share_NK, *places),
            lambda: fused.forward(x_ND, gate_up, share_NK, *places),
        ],
        "backward": [
            backward_now,
            lambda: fused.backward(slots.to_slots(dy_ND, order_S, K), down, gate_up_SF, share_NK, *places),
            lambda: fused.backward(dy_ND, down, gate_up_SF, share_NK, *places),
        ],
        "down's gradient": [
            lambda: weight("down", kernels.add_by_groups_, dy_SD.mT, hidden_SF, ends_E),
            lambda: weight("down", fused.add_by_groups_, dy_ND, hidden_SF, *places, True, K),
        ],
        "gate_up's gradient": [
            lambda: weight("gate_up", kernels.add_by_groups_, dgate_up_SF.mT, x_SD, ends_E),
            lambda: weight("gate_up", fused.add_by_groups_, dgate_up_SF, x_ND, *places, False, K),
        ],
    }
    tuned = fused._forward_kernel, fused._backward_kernel, fused._by_groups_kernel, fused._by_groups_kernel
    for kernel, (product, calls) in zip(tuned, ways.items(), strict=True):
        results = []
        for call in calls:
            call()  # tiles are chosen once, on the sums as they are
            for total in sums.values():
                total.zero_()
            results.append(tuple(result.clone() for result in call()))

        worst = max(difference(result, results[0]) for result in results[1:])
        times = " | ".join(f"{milliseconds(call):.3f}" for call in calls)
        print(f"| {E} | {sequences} | {product} | {times} | {worst:.1e} | {kernel.best_config} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, nargs="+", default=[24, 96])
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    args = parser.parse_args()

    print("| experts | sequences | product | ms | ms | ms | largest difference | tile |")
    print("|---|---|---|---|---|---|---|---|")
    for experts in args.experts:
        base = with_paths(load(STUDY).spec.base, {"model.num_experts": experts})
        config = TrainConfig.model_validate(base).model
        for sequences in args.sequences:
            compare(config, sequences, DTYPES[args.dtype])


if __name__ == "__main__":
    main()
