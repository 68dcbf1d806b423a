"""The work of one configuration, counted from its shapes: what lets a planner predict runs it never made."""

from collections.abc import Mapping
from typing import Any

import torch

from model.config import TrainConfig
from model.transformer import Transformer, flops_per_token, num_params
from model.weights import group_of


def counts(config: TrainConfig, facts: Mapping[str, Any]) -> dict[str, float]:
    """Count an optimizer step's work and memory.

    Args:
        config: The configuration.
        facts: What `train` returned for a run on the same data and device: `vocab_size`, `dtype`, `chunk_rows`.

    Returns:
        "step_tokens", "passes", "pass_flops", "weights", and in bytes "fixed_bytes" (weights, gradients,
        optimizer state), "pass_bytes" (what a pass keeps for its backward, and its largest working memory),
        "update_bytes" (Newton-Schulz on the largest group of matrices) and "disk_bytes" (a run's checkpoints, the one
        that is being written included, and its exported weights).
    """
    with torch.device("meta"):
        model = Transformer(config.model, int(facts["vocab_size"]))
    half = 4 if facts["dtype"] == "float32" else 2
    copies = 0 if half == 4 else 2
    weights, _ = num_params(model)
    groups: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name, parameter)
        groups[group] = groups.get(group, 0) + parameter.numel()
    muon = {group: size for group, size in groups.items() if "x" in group}
    tokens = config.pass_sequences * config.model.seq_len
    largest = max(muon, key=lambda group: muon[group])
    short, long = sorted(map(int, largest.split("x")))
    # In fp32: one momentum for Muon, AdamW's two averages.
    learned_bytes = 4 * sum(muon.values()) + 8 * (weights - sum(muon.values()))
    return {
        "step_tokens": config.batch_tokens,
        "passes": config.batch_sequences / config.pass_sequences,
        "pass_flops": float(flops_per_token(model)) * tokens,
        "weights": weights,
        # fp32 weights and gradients and the half-precision copy.
        "fixed_bytes": weights * (8 + copies) + learned_bytes,
        "pass_bytes": _pass_bytes(config, tokens, len(model.embed_tokens.weight), int(facts["chunk_rows"]), half),
        # The look-ahead, the iterate and the next one, and two products of its shorter side.
        "update_bytes": muon[largest] * half * (3 + 2 * short / long),
        "disk_bytes": (config.output.keep_checkpoints + 1) * (4 * weights + learned_bytes) + 4 * weights,
    }


def _pass_bytes(config: TrainConfig, tokens: int, vocab: int, rows: int, half: int) -> float:
    shape = config.model
    D, F, K, E, H = shape.d_model, shape.d_ff, shape.top_k, shape.num_experts, shape.num_heads
    qkv = (H + 2 * shape.num_kv_heads) * shape.head_dim
    # Two residual sums and their norms; q, k, v of all heads, attention's output, and its copy where the kernel
    # lays it out otherwise; the experts' inputs; the product of q, k and v; gate and up.
    kept = half * (D * (8 + (not config.system.flash_attention) + K) + qkv + 2 * K * F)
    kept += 4 * (H + 4 * K + E + 1)  # log-sum-exps, shares and places of slots, probabilities
    working = half * K * (2 * D + 4 * F)  # the experts' backward pass: both ends, hidden and its gradient, gate and up
    return tokens * shape.num_layers * kept + max(min(tokens, rows) * vocab * half, tokens * working)
