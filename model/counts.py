"""The work and memory of one configuration, counted from its shapes, so that a planner can predict untried runs.

Letters in formulas: D d_model, F d_ff, K experts per token (top_k), E experts, H query heads.
"""

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
        facts: What `train` returned for a run on the same data and device; `vocab_size`, `dtype` and `chunk_rows` are
            read.

    Returns:
        "step_tokens", "passes", "pass_flops", "weights", and in bytes "fixed_bytes" (weights, gradients,
        optimizer state), "pass_bytes" (what a pass keeps for its backward, and its largest working memory),
        "update_bytes" (Newton-Schulz on the largest group of matrices) and "disk_bytes" (a run's checkpoints, the one
        that is being written included, and its exported weights).
    """
    with torch.device("meta"):
        model = Transformer(config.model, int(facts["vocab_size"]))
    is_fp32 = facts["dtype"] == "float32"
    number_bytes = 4 if is_fp32 else 2
    copy_bytes = 0 if is_fp32 else 2

    weights, _ = num_params(model)
    muon_groups = _muon_groups(model)
    muon_weights = sum(muon_groups.values())
    # In fp32: one momentum for Muon, AdamW's two averages.
    state_bytes = 4 * muon_weights + 8 * (weights - muon_weights)

    largest = max(muon_groups, key=lambda group: muon_groups[group])
    short, long = sorted(map(int, largest.split("x")))
    pass_tokens = config.pass_sequences * config.model.seq_len
    padded_vocab = len(model.embed_tokens.weight)

    return {
        "step_tokens": config.batch_tokens,
        "passes": config.batch_sequences / config.pass_sequences,
        "pass_flops": float(flops_per_token(model)) * pass_tokens,
        "weights": weights,
        # fp32 weights and gradients and the half-precision copy.
        "fixed_bytes": weights * (8 + copy_bytes) + state_bytes,
        "pass_bytes": _pass_bytes(config, pass_tokens, padded_vocab, int(facts["chunk_rows"]), number_bytes),
        # The look-ahead, the iterate and the next one, and two products of its shorter side.
        "update_bytes": muon_groups[largest] * number_bytes * (3 + 2 * short / long),
        "disk_bytes": (config.output.keep_checkpoints + 1) * (4 * weights + state_bytes) + 4 * weights,
    }


def _muon_groups(model: Transformer) -> dict[str, int]:
    """Return the number of weights of each shape of matrix that Muon trains."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name, parameter)
        if "x" in group:
            sizes[group] = sizes.get(group, 0) + parameter.numel()
    return sizes


def _pass_bytes(config: TrainConfig, tokens: int, vocab: int, chunk_rows: int, number_bytes: int) -> float:
    """Return what a pass keeps for its backward, and the largest memory it works in.

    Args:
        config: The configuration.
        tokens: Tokens of a pass.
        vocab: Logits of a token, padding included.
        chunk_rows: Rows of logits held at a time.
        number_bytes: Bytes of a number in forward and backward passes.
    """
    shape = config.model
    D, F, K, E, H = shape.d_model, shape.d_ff, shape.top_k, shape.num_experts, shape.num_heads
    qkv_width = (H + 2 * shape.num_kv_heads) * shape.head_dim

    # Two residual sums and their norms; q, k, v of all heads, attention's output, and its copy where the kernel
    # lays it out otherwise; the experts' inputs; the product of q, k and v; gate and up.
    kept = number_bytes * (D * (8 + (not config.system.flash_attention) + K) + qkv_width + 2 * K * F)
    # In fp32: log-sum-exps, shares and places of slots, probabilities.
    kept += 4 * (H + 4 * K + E + 1)
    # The experts' backward pass: both ends, hidden and its gradient, gate and up.
    working = number_bytes * K * (2 * D + 4 * F)

    logits_bytes = min(tokens, chunk_rows) * vocab * number_bytes
    return tokens * shape.num_layers * kept + max(logits_bytes, tokens * working)
