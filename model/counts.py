"""The work and memory of one configuration, counted from its shapes, so that a planner can predict untried runs.

Letters in formulas: D d_model, F d_ff, K experts per token (top_k), E experts, H query heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch

from model.config import ModelConfig, TrainConfig
from model.loss import even_rows, gpu_chunk_rows
from model.ops.grouped import Way, way_on
from model.transformer import Transformer, flops_per_token, num_params, padded_vocab_size
from model.weights import group_of


def counts(config: TrainConfig, facts: Mapping[str, Any]) -> dict[str, float]:
    """Count an optimizer step's work and memory.

    Args:
        config: The configuration.
        facts: What `train` returned for a run on the same data and device; `vocab_size`, `dtype` and `chunk_rows` are
            read. Before any run they may be left out; what is counted is then the least that it can be. For a GPU that
            is not there `memory_bytes` and `capability` (such as "7.5") tell what it is.

    Returns:
        "step_tokens", "passes", "pass_flops", "weights", and in bytes "fixed_bytes" (weights, gradients,
        optimizer state), "pass_bytes" (what a pass keeps for its backward, and its largest working memory),
        "update_bytes" (Newton-Schulz on the largest group of matrices) and "disk_bytes" (a run's checkpoints, the one
        that is being written included, and its exported weights). To reason about speed also "pass_moved_bytes" (what a
        pass reads and writes beside its products), "update_flops" and "update_moved_bytes" of an update, and
        "evaluation_passes" (what an evaluation costs, in passes) and "pass_host_s" (seconds in which the host launches
        a pass).
    """
    is_fp32 = facts.get("dtype", "float32") == "float32"
    number_bytes = 4 if is_fp32 else 2
    copy_bytes = 0 if is_fp32 else 2

    sizes = _Sizes.of(config.model, int(facts.get("vocab_size", 1)))
    weights = sizes.weights
    muon_groups = sizes.muon_groups
    muon_weights = sum(muon_groups.values())
    # In fp32: one momentum for Muon, AdamW's two averages.
    state_bytes = 4 * muon_weights + 8 * (weights - muon_weights)

    largest = max(muon_groups, key=lambda group: muon_groups[group])
    short, long = sorted(map(int, largest.split("x")))
    pass_tokens = config.pass_sequences * config.model.seq_len
    padded_vocab = padded_vocab_size(int(facts.get("vocab_size", 1)))
    chunk_rows = int(facts.get("chunk_rows", 1))
    if "memory_bytes" in facts:
        chunk_rows = gpu_chunk_rows(padded_vocab, facts["memory_bytes"])

    return {
        "step_tokens": config.batch_tokens,
        "passes": config.batch_sequences / config.pass_sequences,
        "pass_flops": float(sizes.flops_per_token) * pass_tokens,
        "weights": weights,
        # fp32 weights and gradients and the half-precision copy.
        "fixed_bytes": weights * (8 + copy_bytes) + state_bytes,
        "pass_bytes": _pass_bytes(config, pass_tokens, padded_vocab, chunk_rows, number_bytes),
        # The look-ahead, the iterate and the next one, and two products of its shorter side.
        "update_bytes": muon_groups[largest] * number_bytes * (3 + 2 * short / long),
        "pass_moved_bytes": _pass_moved_bytes(config, sizes, pass_tokens, padded_vocab, number_bytes),
        "update_flops": float(sizes.update_flops),
        # A Muon weight: its gradient, momentum and look-ahead, five iterations of two reads and a write each in half
        # precision, itself and its copy. AdamW's: itself, its gradient, two averages and its copy.
        "update_moved_bytes": 70 * muon_weights + 30 * (weights - muon_weights),
        "pass_host_s": _pass_host_s(config.model, facts),
        # Forward alone, which is a third of a pass.
        "evaluation_passes": config.data.eval_tokens / (3 * pass_tokens),
        "disk_bytes": (config.output.keep_checkpoints + 1) * (4 * weights + state_bytes) + 4 * weights,
    }


def _pass_host_s(shape: ModelConfig, facts: Mapping[str, Any]) -> float:
    """Return the seconds in which a host launches a pass; none where passes are recorded as CUDA graphs.

    Source: passes of 8 and 16 experts whose products torch does one after the other took 77 and 88 ms on a fast host
    (tests/benchmarks/RESULTS.md).
    """
    if "capability" not in facts:
        return 0.0

    major, _, minor = str(facts["capability"]).partition(".")
    if way_on((int(major), int(minor)), getattr(torch, facts["dtype"])) is not Way.LOOP:
        return 0.0
    return shape.num_layers * (0.011 + 0.00023 * shape.num_experts)


@dataclass(frozen=True)
class _Sizes:
    """What is counted of a model's shapes.

    Args:
        weights: Its parameters.
        flops_per_token: Floating-point operations of forward and backward per token.
        muon_groups: Weights of each shape of matrix that Muon trains.
    """

    weights: int
    flops_per_token: int
    muon_groups: Mapping[str, int]

    @property
    def update_flops(self) -> int:
        """Floating-point operations of Newton-Schulz: a polynomial of a gram matrix, five times."""
        flops = 0
        for name, weights in self.muon_groups.items():
            short, long = sorted(map(int, name.split("x")))
            flops += weights // (short * long) * 5 * (4 * short**2 * long + 2 * short**3)
        return flops

    @classmethod
    @cache
    def of(cls, config: ModelConfig, vocab_size: int) -> Self:
        """Count a model of any number of layers, which are all alike: the first two of them are enough to look at."""
        two = cls._built(config.model_copy(update={"num_layers": 2}), vocab_size)
        one = cls._built(config.model_copy(update={"num_layers": 1}), vocab_size)
        more = config.num_layers - 1

        groups = {
            name: one.muon_groups[name] + more * (size - one.muon_groups[name])
            for name, size in two.muon_groups.items()
        }
        return cls(
            one.weights + more * (two.weights - one.weights),
            one.flops_per_token + more * (two.flops_per_token - one.flops_per_token),
            groups,
        )

    @classmethod
    def _built(cls, config: ModelConfig, vocab_size: int) -> Self:
        try:
            with torch.device("meta"):
                model = Transformer(config, vocab_size)
        except RuntimeError as error:
            # Shapes whose size does not fit into 64 bits.
            raise ValueError(f"the model is larger than any machine: {error}") from None

        weights, _ = num_params(model)
        return cls(weights, flops_per_token(model), _muon_groups(model))


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

    logits_bytes = even_rows(tokens, chunk_rows) * vocab * number_bytes
    return tokens * shape.num_layers * kept + max(logits_bytes, tokens * working)


def _pass_moved_bytes(config: TrainConfig, sizes: _Sizes, tokens: int, vocab: int, number_bytes: int) -> float:
    """Return what the kernels beside the products read and write in a forward and a backward pass.

    Args:
        config: The configuration.
        sizes: What was counted of its shapes.
        tokens: Tokens of a pass.
        vocab: Logits of a token, padding included.
        number_bytes: Bytes of a number in forward and backward passes.
    """
    shape = config.model
    D, F, K, H = shape.d_model, shape.d_ff, shape.top_k, shape.num_heads
    width, qkv_width = H * shape.head_dim, (H + 2 * shape.num_kv_heads) * shape.head_dim

    norms = 2 * (4 + 4) * D  # x, y, their sum and its norm; three gradients in, one out
    heads = 3 * qkv_width + 2 * 3 * width
    attention = (4 + 8) * width
    slots = 4 * (1 + K) * D
    swiglu = 9 * K * F
    router = 2 * D
    a_token = shape.num_layers * (norms + heads + attention + slots + swiglu + router) + 3 * vocab

    # Gradients of the experts are added to sums in fp32.
    matrices = sum(sizes.muon_groups.values())
    return number_bytes * a_token * tokens + 10.0 * matrices
