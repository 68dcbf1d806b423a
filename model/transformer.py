"""The decoder-only mixture-of-experts transformer, laid out and named like Qwen3MoeForCausalLM.

Shape suffixes: B batch, T positions, D d_model, C head_dim, V vocabulary, L layers, E experts.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from model.attention import Attention, RMSNorm, rotary_tables
from model.config import ModelConfig
from model.moe import MoE, RouterStats

VOCAB_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this, so that the head's product meets tensor-core tiles."""


def padded_vocab_size(vocab_size: int) -> int:
    """Return `vocab_size` rounded up to a multiple of `VOCAB_MULTIPLE`."""
    return math.ceil(vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class Block(nn.Module):
    """One layer: attention, then experts, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, flash_attention: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config, flash_attention)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MoE(config)
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> tuple[Tensor, RouterStats]:
        """Return the new residual stream and the router's statistics."""
        mixed_BTD = self.self_attn(self.input_layernorm(x_BTD), cos_TC, sin_TC)
        x_BTD = x_BTD + F.dropout(mixed_BTD, self.dropout, self.training)
        expert_BTD, stats = self.mlp(self.post_attention_layernorm(x_BTD))
        return x_BTD + F.dropout(expert_BTD, self.dropout, self.training), stats


class Transformer(nn.Module):
    """Embedding, layers, final norm; the head is the embedding (tied).

    Args:
        config: Shape of the model.
        vocab_size: Tokens of the tokenizer; padded up to a multiple of 64.
        flash_attention: Whether attention may use the flash kernel.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, flash_attention: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(padded_vocab_size(vocab_size), config.d_model)
        self.layers = nn.ModuleList(Block(config, flash_attention) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        cos_TC, sin_TC = rotary_tables(config.seq_len, config.head_dim, config.rope_theta)
        self.cos_TC: Tensor
        self.sin_TC: Tensor
        self.register_buffer("cos_TC", cos_TC, persistent=False)
        self.register_buffer("sin_TC", sin_TC, persistent=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw every matrix from a normal of `init_std`; maps that write to the residual stream get less.

        Source: Radford et al. 2019, GPT-2, section 2.3: 1 / sqrt(residual layers) on those maps.
        """
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            writes_residual = name.endswith(("o_proj.weight", "down_proj"))
            shrink = math.sqrt(2 * self.config.num_layers) if writes_residual else 1.0
            nn.init.normal_(parameter, std=std / shrink, generator=generator)

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, RouterStats]:
        """Return the final hidden states and the routers' statistics.

        Args:
            tokens_BT: Token ids, int64; at most `seq_len` positions.

        Returns:
            x_BTD in the weights' dtype; stats with aux_loss and z_loss summed over layers and loads [L, E].
        """
        x_BTD = F.dropout(self.embed_tokens(tokens_BT), self.config.dropout, self.training)
        T = tokens_BT.shape[1]
        cos_TC, sin_TC = self.cos_TC[:T].to(x_BTD.dtype), self.sin_TC[:T].to(x_BTD.dtype)
        stats = []
        for layer in self.layers:
            x_BTD, layer_stats = layer(x_BTD, cos_TC, sin_TC)
            stats.append(layer_stats)
        aux_loss, z_loss, load_LE = (torch.stack(each) for each in zip(*stats, strict=True))
        return self.norm(x_BTD), RouterStats(aux_loss.sum(), z_loss.sum(), load_LE)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Return next-token logits [B, T, V] in fp32."""
        x_BTD, _ = self(tokens_BT)
        return F.linear(x_BTD, self.embed_tokens.weight).float()


def num_params(model: Transformer) -> tuple[int, int]:
    """Return all parameters and those active for one token (top_k experts of each layer)."""
    total = sum(parameter.numel() for parameter in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    config = model.config
    return total, total - experts + experts * config.top_k // config.num_experts


def flops_per_token(model: Transformer) -> int:
    """Return floating-point operations of forward and backward per token.

    Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1: 6 per weight in use (the tied embedding counts
    once, as the head), and 6 x num_layers x seq_len x d_model for causal attention (half the positions seen).
    """
    config = model.config
    _, active = num_params(model)
    return 6 * active + 6 * config.num_layers * config.seq_len * config.d_model
