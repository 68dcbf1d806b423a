"""The experts of one layer, forward and backward: our kernels beside Liger-Kernel's fused ones, on a GPU.

usage: python tests/benchmarks/bench_experts.py [--sequences 24 96] [--experts 8 16] [--dtype bf16] [--as-on 86]

Liger-Kernel (`pip install --no-deps liger-kernel`) ships such products as a wheel without a build. Ours route the
tokens too, in fp32; Liger's are given where each token goes and with what weight. Both have the shape of the overnight
study. Times are the sums of the kernels', medians. What the host adds is left out: a training replays ours as a CUDA
graph, and Liger's wait for the host once in each layer. Results are compared first.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from autotune.core.config_paths import with_paths
from autotune.study.study_file import load
from model.config import ModelConfig, TrainConfig
from model.moe import MoE

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
STUDY = Path(__file__).parents[2] / "studies" / "overnight.toml"
WARM_UPS, PASSES = 10, 30
Layer = Callable[[Tensor], Tensor]


def our_layer(moe: MoE) -> Layer:
    """Return our router and experts as a function of hidden states [B, T, D]."""
    return lambda x_BTD: moe(x_BTD)[0]


def liger_layer(moe: MoE, x_BTD: Tensor) -> Layer:
    """Return Liger-Kernel's experts with our weights, and with the routing of some hidden states."""
    from liger_kernel.ops.fused_moe import LigerFusedMoEFunction

    logits = x_BTD.flatten(0, 1).float() @ moe.gate.weight.float().T
    top, chosen = logits.softmax(-1).topk(moe.gate.top_k)
    weight = (top / top.sum(-1, keepdim=True)).to(x_BTD.dtype)
    weights = moe.experts.gate_up_proj, moe.experts.down_proj

    def layer(x_BTD: Tensor) -> Tensor:
        y_ND: Tensor = LigerFusedMoEFunction.apply(x_BTD.flatten(0, 1), *weights, chosen.int(), weight)
        return y_ND.view_as(x_BTD)

    return layer


def milliseconds(layer: Layer, x_BTD: Tensor, weights: list[nn.Parameter]) -> float:
    """Return what the kernels of a forward and a backward pass take, without what lies between them."""
    from torch.profiler import ProfilerActivity, profile

    dy_BTD = torch.randn_like(x_BTD)

    def step() -> None:
        torch.autograd.grad(layer(x_BTD), [x_BTD, *weights], dy_BTD, allow_unused=True)

    for _ in range(WARM_UPS):
        step()
    torch.cuda.synchronize()

    passes = []
    for _ in range(PASSES):
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as kernels:
            step()
            torch.cuda.synchronize()
        passes.append(sum(event.self_device_time_total for event in kernels.key_averages()) / 1e3)
    return statistics.median(passes)


def compare(config: ModelConfig, sequences: int, dtype: torch.dtype) -> str:
    """Return a row: how far results differ, and the milliseconds of each."""
    torch.manual_seed(0)
    device = torch.device("cuda")
    moe = MoE(config).to(device)
    for weight in moe.parameters():
        nn.init.normal_(weight, std=config.d_model**-0.5)
    moe.experts.to(dtype)
    x_BTD = torch.randn(sequences, config.seq_len, config.d_model, device=device, dtype=dtype, requires_grad=True)

    ours, theirs = our_layer(moe), liger_layer(moe, x_BTD.detach())
    with torch.no_grad():
        expected = theirs(x_BTD).float()
        off = float((ours(x_BTD).float() - expected).norm() / expected.norm())

    # In a training the gradients of weights are added to fp32 sums: ours do that, Liger's are only made.
    weights = list(moe.experts.parameters())
    for weight in weights:
        weight.grad_sum = torch.zeros_like(weight, dtype=torch.float32)  # type: ignore[attr-defined]
    ours_ms, theirs_ms = (milliseconds(layer, x_BTD, weights) for layer in (ours, theirs))
    cells = f"{config.num_experts} | {sequences} | {off:.4f} | {ours_ms:.3f} | {theirs_ms:.3f}"
    return f"| {cells} | {theirs_ms / ours_ms:.2f} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, nargs="+", default=[24, 96])
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--as-on", type=int, default=0, metavar="86")
    args = parser.parse_args()

    if args.as_on:
        from other_card import pretend

        pretend(args.as_on)
    print("| experts | sequences | results differ by | ours, ms | Liger's, ms | Liger's / ours |")
    print("|---|---|---|---|---|---|")
    for experts in args.experts:
        base = with_paths(load(STUDY).spec.base, {"model.num_experts": experts})
        config = TrainConfig.model_validate(base).model
        for sequences in args.sequences:
            print(compare(config, sequences, DTYPES[args.dtype]), flush=True)


if __name__ == "__main__":
    main()
