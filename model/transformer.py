"""The decoder-only mixture-of-experts transformer, laid out and named like Qwen3MoeForCausalLM.

Shape suffixes: B batch, T positions, D d_model, C head_dim.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from model.attention import Attention, RMSNorm, rotary_tables
from model.config import ModelConfig
from model.moe import MoE, RouterStats, RouterTally, router_stats
from model.ops.dropout import dropout

_VOCAB_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this, so that the head's product fits the tiles of tensor cores."""


def padded_vocab_size(vocab_size: int) -> int:
    """Return `vocab_size` rounded up to a multiple of 64."""
    return math.ceil(vocab_size / _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE


class Block(nn.Module):
    """One layer: attention, then experts, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, flash_attention: bool, normalises: bool | None) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config, flash_attention)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MoE(config, normalises)

    def forward(
        self, x_BTD: Tensor, branch_BTD: Tensor | None, cos_TC: Tensor, sin_TC: Tensor, drop: Tensor | None
    ) -> tuple[Tensor, Tensor, RouterTally]:
        """Add the layer before's last branch to the residual stream, then attend and route.

        A sum and the norm after it are one operation, which is why a branch is added where the next norm is.

        Args:
            x_BTD: The residual stream.
            branch_BTD: What the layer before adds to it; None in the first layer.
            cos_TC: Cosines of the rotary angles, fp32.
            sin_TC: Sines.
            drop: Dropout probability, a scalar; None for none.

        Returns:
            The residual stream, this layer's own last branch, not yet added, and the router's tally.
        """
        x_BTD, normed_BTD = self.input_layernorm.add(x_BTD, branch_BTD)
        mixed_BTD = self.self_attn(normed_BTD, cos_TC, sin_TC, drop)

        x_BTD, normed_BTD = self.post_attention_layernorm.add(x_BTD, _drop(mixed_BTD, drop))
        expert_BTD, tally = self.mlp(normed_BTD)
        return x_BTD, _drop(expert_BTD, drop), tally


def _drop(x: Tensor, drop: Tensor | None) -> Tensor:
    return x if drop is None else dropout(x, drop)


class Transformer(nn.Module):
    """Embedding, layers, final norm; the head is the embedding (tied).

    Args:
        config: Shape of the model.
        vocab_size: Tokens of the tokenizer; padded up to a multiple of 64.
        flash_attention: Whether attention may use the flash kernel.
        normalises: As `Router` takes it.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, flash_attention: bool = True, normalises: bool | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(padded_vocab_size(vocab_size), config.d_model)
        self.layers = nn.ModuleList(Block(config, flash_attention, normalises) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)

        cos_TC, sin_TC = rotary_tables(config.seq_len, config.head_dim, config.rope_theta)
        self.cos_TC: Tensor
        self.sin_TC: Tensor
        self.register_buffer("cos_TC", cos_TC, persistent=False)
        self.register_buffer("sin_TC", sin_TC, persistent=False)

        # A tensor and no float, so that a captured pass reads it at every replay.
        self.drop: Tensor
        self.register_buffer("drop", torch.tensor(config.dropout), persistent=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator, weights: Mapping[str, Tensor] | None = None) -> None:
        """Draw every matrix from a normal of `init_std`; maps that write to the residual stream get less.

        Args:
            generator: Source of the random numbers.
            weights: Tensors to fill, by the parameters' names; None fills the parameters.

        Source: Radford et al. 2019, GPT-2, section 2.3: 1 / sqrt(residual layers) on those maps.
        """
        if weights is None:
            weights = dict(self.named_parameters())

        std = self.config.init_std
        for name, weight in weights.items():
            if weight.ndim < 2:
                weight.fill_(1.0)
                continue

            writes_residual = name.endswith(("o_proj.weight", "down_proj"))
            shrink = math.sqrt(2 * self.config.num_layers) if writes_residual else 1.0
            weight.normal_(std=std / shrink, generator=generator)

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, RouterStats]:
        """Return the final hidden states and the routers' statistics.

        Args:
            tokens_BT: Token ids; at most `seq_len` positions.

        Returns:
            [B, T, D] in the weights' dtype, and the statistics of all routers.
        """
        return self.hidden(self.embed_tokens(tokens_BT))

    def hidden(self, x_BTD: Tensor) -> tuple[Tensor, RouterStats]:
        """Return what `forward` returns, from embedded tokens."""
        T = x_BTD.shape[1]
        drop = self.drop if self.training and self.config.dropout > 0 else None
        x_BTD = _drop(x_BTD, drop)

        branch_BTD = None
        tallies = []
        for layer in self.layers:
            x_BTD, branch_BTD, tally = layer(x_BTD, branch_BTD, self.cos_TC[:T], self.sin_TC[:T], drop)
            tallies.append(tally)

        _, normed_BTD = self.norm.add(x_BTD, branch_BTD)
        return normed_BTD, router_stats(tallies)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Return next-token logits in fp32, [B, T, padded vocabulary]."""
        x_BTD, _ = self(tokens_BT)
        return F.linear(x_BTD, self.embed_tokens.weight).float()


def num_params(model: Transformer) -> tuple[int, int]:
    """Return the number of all parameters and of those active for one token (top_k experts of each layer)."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    experts = sum(size for name, size in sizes.items() if ".experts." in name)

    config = model.config
    active_experts = experts * config.top_k // config.num_experts
    return total, total - experts + active_experts


def flops_per_token(model: Transformer) -> int:
    """Return floating-point operations of forward and backward per token.

    Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1: 6 per weight in use (the tied embedding counts once, as
    the head), and 6 x num_layers x seq_len x d_model for causal attention, which sees half of the positions.
    """
    config = model.config
    _, active = num_params(model)
    return 6 * active + 6 * config.num_layers * config.seq_len * config.d_model
